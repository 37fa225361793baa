"""Decoding of one segment of a stream: samples to features to encodings to symbols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asr_pathways.data.audio import Samples
from asr_pathways.data.features import FbankStream
from asr_pathways.models.emformer import STRIDE, EmformerState
from asr_pathways.models.transducer import GreedySearch
from asr_pathways.runtime.beam_search import BeamSearch
from asr_pathways.runtime.pathway_cache import ReadyPathway
from asr_pathways.runtime.stream import Incoming

Search = GreedySearch | BeamSearch


class SegmentDecoder:
    """The state of decoding one segment.

    Attributes:
        pathway: that decodes it.
        incoming: its samples.
        samples: how many were accepted, counted at 16 kHz.
        search: with the symbols so far.
    """

    def __init__(self, pathway: ReadyPathway, search: Search) -> None:
        config = pathway.model.config.encoder
        self.pathway = pathway
        self.incoming = Incoming()
        self.samples = 0
        self.search = search
        self._fbank = FbankStream(pathway.model.frontend.config)
        self._new: list[Tensor] = []
        self._waiting = torch.zeros(0, config.features)
        with torch.inference_mode():
            self._state: EmformerState = pathway.model.encoder.initial_state(1, self._waiting)

    def accept(self, samples: Samples, rate: int) -> None:
        """Appends samples (n,), float32, at ``rate`` Hz.

        Raises:
            PathwaysError: as `Incoming.accept` does.
        """
        self._add(self.incoming.accept(samples, rate))

    def end(self) -> None:
        """No more samples will come."""
        self._add(self.incoming.end())
        self._new.append(self._fbank.flush())

    def ready(self) -> bool:
        """Whether there are features for a whole segment of the encoder."""
        if self._new:
            self._waiting = torch.cat([self._waiting, *self._new])
            self._new = []
        return len(self._waiting) >= self._wanted()

    def point(self) -> tuple[int, int, int]:
        """What segments must share to be decoded in one batch."""
        config = self.pathway.model.config.encoder
        # From where the left context is full on, all points of a stream are alike.
        return id(self.pathway), self._wanted(), min(self._state.past, config.left_context + config.segment)

    @torch.inference_mode()
    def finish(self) -> None:
        """Decodes what is left after :meth:`end`, when no whole segment of the encoder is ready any more."""
        model = self.pathway.model
        features = model.normalize(self._waiting[None])
        encodings = model.encoder.stream(features, self._state, final=True)
        if encodings.shape[1]:
            self.search.accept(encodings)

    def _add(self, samples: Samples) -> None:
        self.samples += len(samples)
        features = self._fbank.accept(samples)
        if len(features):
            self._new.append(features)

    def _wanted(self) -> int:
        config = self.pathway.model.config.encoder
        return STRIDE * (config.segment + config.right_context - self._state.frames.shape[1])

    def _next_features(self) -> Tensor:
        count = self._wanted()
        features, self._waiting = self._waiting[:count], self._waiting[count:]
        return features


@torch.inference_mode()
def advance(segments: Sequence[SegmentDecoder]) -> None:
    """Advances segments that are ready and at the same point by one segment of the encoder."""
    model = segments[0].pathway.model
    features = model.normalize(torch.stack([segment._next_features() for segment in segments]))
    if len(segments) == 1:
        segments[0].search.accept(model.encoder.stream(features, segments[0]._state))
        return
    pasts = [segment._state.past for segment in segments]
    state = EmformerState.stack([segment._state for segment in segments])
    encodings = model.encoder.stream(features, state)
    moved = state.past - pasts[0]
    for segment, past, part in zip(segments, pasts, state.split(), strict=True):
        part.past = past + moved
        segment._state = part
    _search(segments, encodings)


def _search(segments: Sequence[SegmentDecoder], encodings: Tensor) -> None:
    """Decodes encodings (B, T, D), a row by each segment's search; greedy ones in one batch."""
    greedy = [segment.search for segment in segments if isinstance(segment.search, GreedySearch)]
    if len(greedy) < len(segments):
        for index, segment in enumerate(segments):
            segment.search.accept(encodings[index : index + 1])
        return
    together = GreedySearch.stack(greedy)
    together.accept(encodings)
    for segment, search in zip(segments, together.split(), strict=True):
        segment.search = search
