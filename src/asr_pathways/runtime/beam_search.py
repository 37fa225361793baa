"""Modified beam search for transducers: at most one symbol a frame, equal texts merged, phrases preferred if asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.phrase_bias import PhraseBias


@dataclass(frozen=True)
class _Hypothesis:
    symbols: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    score: float = 0.0  # log probability of all its alignments that were kept
    bonus: float = 0.0
    place: int = 0  # state of the phrase bias
    row: int = 0  # where its predictor state is

    @property
    def total(self) -> float:
        return self.score + self.bonus


class BeamSearch:
    """Modified beam search over one stream, some encodings at a time.

    A hypothesis is a text: alignments that spell the same one add up. The method is that of Kang et al. (Fast and
    parallel decoding for transducer, arXiv 2211.00484).

    Args:
        model: the transducer.
        width: hypotheses kept after each frame.
        bias: phrases to prefer.

    Attributes:
        past: encoder frames decoded so far, in a list as in `GreedySearch`.
    """

    def __init__(self, model: Transducer, width: int, bias: PhraseBias | None = None) -> None:
        self.model, self.width, self.bias = model, width, bias
        self.past = [0]
        self._kept = [_Hypothesis()]
        start = torch.full((1, 1), model.blank, device=model.feature_mean.device)
        out, self._state = model.predictor(start)
        self._predictions = model.joiner.prediction(out[:, 0])

    @property
    def symbols(self) -> list[list[int]]:
        """The word pieces of the best text so far."""
        return [list(self._best().symbols)]

    @property
    def frames(self) -> list[list[int]]:
        """The encoder frame at which each of them was emitted, in that text's best alignment."""
        return [list(self._best().frames)]

    def accept(self, encodings: Tensor) -> None:
        """Decodes the next encodings (1, T, D)."""
        for frame in self.model.joiner.encoding(encodings)[0]:
            self._frame(frame)
            self.past[0] += 1

    def _best(self) -> _Hypothesis:
        return max(self._kept, key=lambda kept: kept.total + (self.bias.rest(kept.place) if self.bias else 0.0))

    def _frame(self, encoding: Tensor) -> None:
        scores = F.log_softmax(self.model.joiner.output(torch.relu(encoding + self._predictions)), dim=-1)
        vocabulary = scores.shape[1]
        so_far = scores.new_tensor([kept.total for kept in self._kept])
        totals = (scores + so_far[:, None]).flatten()
        # Bonuses can lift a symbol from below the best ones: with phrases, twice as many are looked at.
        count = min(totals.numel(), self.width * (2 if self.bias else 1))
        best = totals.topk(count).indices.tolist()
        rows = scores.flatten()[best].tolist()
        merged: dict[tuple[int, ...], _Hypothesis] = {}
        for index, score in zip(best, rows, strict=True):
            before = self._kept[index // vocabulary]
            new = self._extended(before, index % vocabulary, score)
            other = merged.get(new.symbols)
            merged[new.symbols] = new if other is None else _merged(new, other)
        kept = sorted(merged.values(), key=lambda hypothesis: -hypothesis.total)[: self.width]
        self._predict(kept)

    def _extended(self, before: _Hypothesis, symbol: int, score: float) -> _Hypothesis:
        score += before.score
        if symbol == self.model.blank:
            return replace(before, score=score)
        place, bonus = self.bias.step(before.place, symbol) if self.bias else (0, 0.0)
        symbols, frames = (*before.symbols, symbol), (*before.frames, self.past[0])
        return _Hypothesis(symbols, frames, score, before.bonus + bonus, place, before.row)

    def _predict(self, kept: list[_Hypothesis]) -> None:
        """Advances the predictor to the hypotheses that are kept; their rows are numbered anew."""
        rows = [hypothesis.row for hypothesis in kept]
        longer = [i for i, new in enumerate(kept) if len(new.symbols) > len(self._kept[new.row].symbols)]
        hidden, cell = (state[:, rows] for state in self._state)
        predictions = self._predictions[rows]
        if longer:
            symbols = torch.tensor([[kept[i].symbols[-1]] for i in longer], device=hidden.device)
            out, after = self.model.predictor(symbols, (hidden[:, longer], cell[:, longer]))
            hidden[:, longer], cell[:, longer] = after
            predictions[longer] = self.model.joiner.prediction(out[:, 0])
        self._state, self._predictions = (hidden, cell), predictions
        self._kept = [replace(hypothesis, row=row) for row, hypothesis in enumerate(kept)]


def _merged(one: _Hypothesis, other: _Hypothesis) -> _Hypothesis:
    """Two alignments of a text as one: probabilities add up, times are those of the likelier."""
    likelier = max(one, other, key=lambda hypothesis: hypothesis.score)
    score = float(torch.logaddexp(torch.tensor(one.score), torch.tensor(other.score)))
    return _Hypothesis(one.symbols, likelier.frames, score, one.bonus, one.place, likelier.row)
