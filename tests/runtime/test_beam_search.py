from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.beam_search import BeamSearch
from asr_pathways.runtime.phrase_bias import PhraseBias
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def model() -> Transducer:
    torch.manual_seed(5)
    model = Transducer(tiny_config(vocab_size=3)).eval()
    with torch.no_grad():
        model.joiner.encoding.weight.mul_(8)
        model.joiner.output.weight.mul_(3)
    return model


def every_text(model: Transducer, encodings: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probabilities of all texts, over all alignments of at most one symbol a frame."""
    frames = encodings.shape[1]
    probabilities: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(4), repeat=frames):
        text = tuple(symbol for symbol in path if symbol != model.blank)
        predictions, _ = model.predictor(torch.tensor([[model.blank, *text]]))
        scores = model.joiner(encodings, predictions).log_softmax(dim=-1)[0]
        place, total = 0, 0.0
        for frame, symbol in enumerate(path):
            total += float(scores[frame, place, symbol])
            place += symbol != model.blank
        probabilities[text] = probabilities.get(text, 0.0) + float(torch.tensor(total).exp())
    return probabilities


@torch.inference_mode()
def test_a_wide_beam_finds_what_all_alignments_say(model: Transducer) -> None:
    for seed in range(4):
        encodings = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(seed))
        texts = every_text(model, encodings)
        assert sum(texts.values()) == pytest.approx(1, abs=1e-4)
        search = BeamSearch(model, width=1000)
        search.accept(encodings[:, :1])
        search.accept(encodings[:, 1:])
        assert tuple(search.symbols[0]) == max(texts, key=lambda text: texts[text])
        assert {kept.symbols: kept.score for kept in search._kept} == pytest.approx(
            {text: float(torch.tensor(probability).log()) for text, probability in texts.items()}, abs=1e-3
        )
        assert search.past == [4] and len(search.frames[0]) == len(search.symbols[0])


@torch.inference_mode()
def test_one_hypothesis_takes_the_best_symbol_of_each_frame(model: Transducer) -> None:
    encodings = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(9))
    search = BeamSearch(model, width=1)
    search.accept(encodings)
    out, state = model.predictor(torch.tensor([[model.blank]]))
    wanted = []
    for frame in range(12):
        symbol = int(model.joiner(encodings[:, frame : frame + 1], out).argmax())
        if symbol != model.blank:
            wanted.append((symbol, frame))
            out, state = model.predictor(torch.tensor([[symbol]]), state)
    assert list(zip(search.symbols[0], search.frames[0], strict=True)) == wanted


@torch.inference_mode()
def test_a_phrase_is_preferred_when_its_bonus_is_large(model: Transducer) -> None:
    encodings = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1))
    plain = BeamSearch(model, width=50)
    plain.accept(encodings)
    phrase = next(p for p in ((0, 1, 2), (2, 1, 0)) if p != tuple(plain.symbols[0]))
    biased = BeamSearch(model, width=50, bias=PhraseBias([phrase], 20.0))
    biased.accept(encodings)
    assert tuple(biased.symbols[0]) in {phrase, (*phrase, 0), (*phrase, 1), (*phrase, 2)} | {
        (symbol, *phrase) for symbol in range(3)
    }


@torch.inference_mode()
def test_a_phrase_is_avoided_when_its_bonus_is_below_zero(model: Transducer) -> None:
    encodings = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1))
    plain = BeamSearch(model, width=50)
    plain.accept(encodings)
    best = tuple(plain.symbols[0])
    biased = BeamSearch(model, width=50, bias=PhraseBias([best], -20.0))
    biased.accept(encodings)
    assert len(best) > 1 and str(best)[1:-1] not in str(biased.symbols[0])


@given(
    phrases=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=4),
    text=st.lists(st.integers(0, 2), max_size=10),
    sign=st.sampled_from([1, -1]),
)
def test_bonuses_of_unfinished_phrases_are_taken_back(phrases: list[list[int]], text: list[int], sign: int) -> None:
    bias = PhraseBias(phrases, sign * 1.0)
    state, total = 0, 0.0
    for symbol in text:
        state, bonus = bias.step(state, symbol)
        total += bonus
    total += bias.rest(state)
    starts = [(phrase, i) for phrase in {*map(tuple, phrases)} for i in range(len(text))]
    spelt = [len(phrase) for phrase, i in starts if tuple(text[i : i + len(phrase)]) == phrase]
    assert max(spelt, default=0) <= sign * total <= sum(spelt)
