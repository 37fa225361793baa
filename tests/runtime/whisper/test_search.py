"""Beam search beside transformers', on a Whisper of random weights; and its guard against loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, WhisperForConditionalGeneration

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import Samples
from asr_pathways.runtime.whisper.engine import WhisperEngine
from asr_pathways.runtime.whisper.network import Step
from asr_pathways.runtime.whisper.search import Search
from asr_pathways.runtime.whisper.source import FolderSource
from tests.models.hub.tiny import whisper

LONGEST = 26
"""Tokens with the prompt: too few for a loop, against which transformers has no guard."""


def sound(seed: int) -> Samples:
    return 0.1 * np.random.default_rng(seed).standard_normal(16_000).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = whisper(tmp_path_factory.mktemp("search") / "whisper")
    hub = WhisperForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():  # larger weights: otherwise it writes one token whatever it is given
        for name, weight in hub.named_parameters():
            if weight.dim() == 2:
                weight *= 30.0 if "embed_positions" in name else 8.0
    hub.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def engine_of(folder: Path, beam: int) -> tuple[WhisperEngine, Any]:
    asr = load_model(folder)
    return WhisperEngine(FolderSource(asr, "whisper"), precision="float32", beam=beam), asr.model.hub


@pytest.mark.parametrize("beam", [2, 5])
def test_tokens_are_those_of_transformers(folder: Path, beam: int) -> None:
    """The model never writes its own end: for each sound another token, which it does write, is the end of texts."""
    engine, hub = engine_of(folder, beam)
    never = np.zeros(hub.config.vocab_size, np.uint8)
    network, prompt, lengths, others = engine._network("fr"), engine.prompt("fr"), set(), 0
    for seed in range(24):
        features, _ = engine._features(sound(seed))
        cross, kept = network.encode(features), [5 * seed]
        room = LONGEST - len(prompt) - len(kept)
        endless, _ = Search(-1, LONGEST, never, never)(network, cross, prompt, kept)
        end = endless.tokens[seed % room]
        found, _ = Search(end, LONGEST, never, never, beam)(network, cross, prompt, kept, attention=True)
        greedy, _ = Search(end, LONGEST, never, never)(network, cross, prompt, kept)
        out = GenerationMixin.generate(
            hub,
            torch.from_numpy(features).T[None],
            generation_config=GenerationConfig(
                num_beams=beam,
                max_length=LONGEST,
                do_sample=False,
                early_stopping=True,
                eos_token_id=end,
                pad_token_id=end,
                return_dict_in_generate=True,
                output_scores=True,
            ),
            decoder_input_ids=torch.tensor([[*prompt, *kept]]),
        )
        theirs = out.sequences[0, len(prompt) + len(kept) :].tolist()
        ended = end in theirs
        assert found.tokens == (theirs[: theirs.index(end)] if ended else theirs)
        assert found.mean == pytest.approx(float(out.sequences_scores[0]), abs=0.02)
        assert len(found.scores) == len(found.attention) == len(found.tokens) + ended
        lengths.add(len(found.tokens))
        others += found.tokens != greedy.tokens
    assert len(lengths) > 3
    assert others > 3


class Script:
    """A network and its hypotheses in one: a table has the log probabilities of tokens after the last three."""

    length = 4

    def __init__(self, table: dict[tuple[int, ...], dict[int, float]]) -> None:
        self.table, self.texts, self.seen = table, [()], set[tuple[int, ...]]()

    def hypotheses(self, _: object) -> Script:
        self.texts = [()]
        return self

    def step(self, tokens: np.ndarray, attention: bool = False) -> Step:
        if tokens[0, 0] < 100:  # not of the prompt
            self.texts = [(*text, *row) for text, row in zip(self.texts, tokens.tolist(), strict=True)]
        self.seen.update(self.texts)
        return Step(np.zeros((len(self.texts), 1), np.float32), np.zeros((len(self.texts), 0, 0), np.float32))

    def keep(self, places: list[int]) -> None:
        self.texts = [self.texts[place] for place in places]

    def best(self, hidden: np.ndarray, count: int, banned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens, scores = np.full((len(hidden), count), -1, np.int32), np.full((len(hidden), count), -np.inf, np.float32)
        for row, text in enumerate(self.texts):
            ranked = sorted(self.table.get(text[-3:], {0: -0.1}).items(), key=lambda item: -item[1])
            for column, (token, score) in enumerate([one for one in ranked if not banned[one[0]]][:count]):
                tokens[row, column], scores[row, column] = token, score
        return tokens, scores


def test_the_likeliest_text_wins_though_it_begins_unlikely() -> None:
    table = {(): {1: -0.4, 2: -1.2}, (1,): {3: -2.0, 4: -2.1}, (2,): {5: -0.1}, (2, 5): {0: -0.1}}
    never = np.zeros(9, np.uint8)
    for beam, tokens in ((1, [1, 3]), (2, [2, 5])):
        script: Any = Script(table)
        found, _ = Search(0, 30, never, never, beam)(script, None, [100, 101])
        assert found.tokens == tokens
        assert found.mean == pytest.approx((-1.4 if beam == 2 else -2.5) / 3)
    banned, _ = Search(0, 30, never, never, 2)(Script(table), None, [100, 101], banned=2)  # type: ignore[arg-type]
    assert banned.tokens == [1, 3]


def test_a_loop_ends_a_hypothesis() -> None:
    table = {(): {1: -0.1}, (1,): {1: -0.1}, (1, 1): {1: -0.1}, (1, 1, 1): {1: -0.1}}
    script: Any = Script(table)
    never = np.zeros(9, np.uint8)
    found, _ = Search(0, 400, never, never, 2)(script, None, [100, 101])
    assert found.loops and len(found.tokens) == 24 == len(found.scores)
    assert max(map(len, script.seen)) == 23  # it did not go round to the limit


def test_a_text_wins_against_a_loop() -> None:
    """However likely it is to go round."""
    table = {(): {1: -0.2, 2: -2.5}, (1,): {1: -0.1, 0: -3.0}, (1, 1): {1: -0.1}, (1, 1, 1): {1: -0.001}}
    never = np.zeros(9, np.uint8)
    found, _ = Search(0, 400, never, never, 2)(Script(table), None, [100, 101])  # type: ignore[arg-type]
    assert found.tokens in ([1], [2]) and not found.loops


def test_a_text_may_fill_the_decoder(folder: Path) -> None:
    engine, _ = engine_of(folder, 5)
    segment = engine.recognize(sound(3), "fr", words=True)
    assert segment is not None and segment.words
    assert all(0 <= word.start <= word.end <= 1 for word in segment.words)
