from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance, character_counts, score, word_counts
from asr_pathways.model_folder import decode
from asr_pathways.model_folder.decode import evaluate, pair
from asr_pathways.model_folder.model import AsrModel, HubCard


@dataclass(frozen=True)
class Batch:
    language: str
    ids: list[str]
    texts: list[str]
    features: Tensor
    feature_lengths: Tensor

    def to(self, device: Any) -> Batch:
        return replace(self, features=self.features.to(device), feature_lengths=self.feature_lengths.to(device))


class Recorder(nn.Module):
    """Decodes an utterance to as many tokens as it has frames, and caches a mask as real models do."""

    free_text = False

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.log = log
        self.mask: Tensor | None = None

    def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.log.append(f"decode {len(lengths)}")
        if self.mask is None:
            self.mask = torch.ones(1)
        return [[7] * int(length) for length in lengths]


class Tokenizer:
    def decode(self, ids: Sequence[int], language: str) -> str:
        return " ".join(map(str, ids))


class Switch:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    @contextmanager
    def use(self, language: str) -> Iterator[None]:
        if language == "xx":
            raise PathwaysError("no pathway for language 'xx'")
        self.log.append(f"enter {language}")
        yield
        self.log.append(f"leave {language}")


def asr(model: Recorder, switch: Switch | None = None) -> Any:
    return AsrModel(model, Tokenizer(), HubCard(), switch)  # type: ignore[arg-type]


def batch(language: str, lengths: list[int]) -> Batch:
    names = [f"{language}{length}" for length in lengths]
    texts = [f"text {name}" for name in names]
    return Batch(language, names, texts, torch.zeros(len(lengths), max(lengths), 80), torch.tensor(lengths))


BATCHES = [batch("en", [1, 2]), batch("en", [3]), batch("fr", [2])]


def test_decodes_each_language_through_its_pathway() -> None:
    log: list[str] = []
    utterances = evaluate(asr(Recorder(log), Switch(log)), BATCHES)
    assert log == ["enter en", "decode 2", "decode 1", "leave en", "enter fr", "decode 1", "leave fr"]
    assert utterances == [
        Utterance("en1", "en", "text en1", "7"),
        Utterance("en2", "en", "text en2", "7 7"),
        Utterance("en3", "en", "text en3", "7 7 7"),
        Utterance("fr2", "fr", "text fr2", "7 7"),
    ]


def test_dense_model_needs_no_pathways() -> None:
    log: list[str] = []
    assert len(evaluate(asr(Recorder(log)), iter(BATCHES))) == 4
    assert log == ["decode 2", "decode 1", "decode 1"]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training: bool) -> None:
    model = Recorder([]).train(training)
    evaluate(asr(model), BATCHES)
    assert model.training is training
    with pytest.raises(PathwaysError, match="'xx'"):
        evaluate(asr(model, Switch([])), [batch("xx", [1])])
    assert model.training is training


def test_what_the_model_caches_can_be_trained_with() -> None:
    model = Recorder([])
    evaluate(asr(model), BATCHES)
    assert model.mask is not None
    (model.weight * model.mask).sum().backward()
    assert model.weight.grad is not None


def test_progress_goes_to_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(asr(Recorder([])), BATCHES, total=4)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Decoding: 4 in" in err


def test_no_batches_is_an_error() -> None:
    with pytest.raises(PathwaysError, match="nothing to evaluate"):
        evaluate(asr(Recorder([])), [])


def test_model_that_loses_an_utterance_is_noticed() -> None:
    class Loser(Recorder):
        def decode(self, features: Tensor, lengths: Tensor, language: str) -> list[list[int]]:
            return super().decode(features, lengths, language)[:-1]

    with pytest.raises(ValueError, match="shorter"):
        evaluate(asr(Loser([])), BATCHES)


def test_references_without_words_are_known_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    model = Recorder(log)
    model.free_text, model.window, model.frontend = True, 30.0, None  # type: ignore[assignment]
    asr = AsrModel(model, Tokenizer(), HubCard(), Switch(log))  # type: ignore[arg-type]

    def cut(name: str, text: str) -> Any:
        return SimpleNamespace(id=name, duration=1.0, supervisions=[SimpleNamespace(language="fr", text=text)])

    def batches(cuts: Sequence[Any], **_: Any) -> list[Batch]:
        texts = [one.supervisions[0].text for one in cuts]
        return [Batch("fr", [one.id for one in cuts], texts, torch.ones(len(cuts), 2), torch.full((len(cuts),), 2))]

    monkeypatch.setattr(decode, "eval_batches", batches)
    monkeypatch.setattr(decode, "read_cut", lambda cut: None)
    monkeypatch.setattr(decode, "is_silent", lambda samples: False)
    with pytest.raises(PathwaysError, match="fr: none of its references has words"):
        decode.decode_cuts(asr, [cut("a", "[rires]")], progress=False)
    assert log == []
    found = decode.decode_cuts(asr, [cut("a", "[rires]"), cut("b", "Sept sept!")], progress=False)
    assert [one.reference for one in found] == ["", "sept sept"]
    assert log == ["enter fr", "decode 2", "leave fr"]
    assert score(found).language("fr").wer.insertions == 2


@pytest.mark.parametrize("free_text", [True, False])
def test_languages_without_spaces_are_scored_by_letter(free_text: bool) -> None:
    found = pair("a", "cmn-Hans", "你好吗 世界", "你好 世界了", free_text)
    for counts in (word_counts(found), character_counts(found)):
        assert (counts.errors, counts.reference_length) == (2, 5)
    assert pair("a", "ko", "안녕 세계", "안녕", free_text) == Utterance("a", "ko", "안녕 세계", "안녕")
