"""What utterances are, as one number each: a run is to go on with the data that it began with."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_pathways.data.audio import stored_at
from asr_pathways.data.batches import source_of
from asr_pathways.errors import PathwaysError

BLOCK = 1 << 14
"""Bytes of an audio file that are read at its start, in its middle and at its end."""

GONE = -1
"""In place of the number of an utterance whose audio cannot be read; a run leaves it out."""


@dataclass(frozen=True)
class Identity:
    """Utterances in their order: their ids, and a checksum (N,) int64 each of id, language, text, place and audio.

    The audio counts by its size and three blocks of it: nobody reads a thousand hours to begin. Where the folder
    is does not count, nor when it was written.
    """

    ids: tuple[str, ...]
    sums: Tensor

    @classmethod
    def of(cls, cuts: Iterable[Any], targets: Mapping[str, Sequence[int]] | None = None) -> Identity:
        """That of Lhotse cuts; with the ``targets`` of utterances, by their ids, these count too."""
        cuts = list(cuts)
        sources = [source_of(cut) for cut in cuts]
        paths = list(dict.fromkeys(str(source.source) for source, _ in sources))
        with ThreadPoolExecutor(16) as pool:  # a disk that is far away answers many at once
            audio = dict(zip(paths, pool.map(_checksum, paths), strict=True))
        sums = []
        for cut, (source, channel) in zip(cuts, sources, strict=True):
            (supervision,) = cut.supervisions
            sound = audio[str(source.source)]
            place = (cut.id, supervision.language, supervision.text, cut.start, cut.duration)
            place += () if channel is None else (channel,)
            known = repr((place, sound, tuple((targets or {}).get(cut.id, ()))))
            sums.append(GONE if sound == GONE else zlib.crc32(known.encode()))
        return cls(tuple(cut.id for cut in cuts), torch.tensor(sums, dtype=torch.int64))

    def difference(self, earlier: Tensor, spared: Iterable[str] = ()) -> str | None:
        """How these utterances are others than those of the ``earlier`` checksums; None: they are the same.

        Args:
            earlier: (N,).
            spared: ids of utterances that were left out, and may be others now.
        """
        if len(earlier) != len(self.sums):
            return f"{len(self.sums)} utterances and not {len(earlier)}, so others"
        spared = set(spared)
        changed = (self.sums != earlier) & (self.sums != GONE) & (earlier != GONE)
        names = [self.ids[index] for index in changed.nonzero().flatten().tolist() if self.ids[index] not in spared]
        if not names:
            return None
        others = f" and {len(names) - 1} others are not what they were" if len(names) > 1 else " is not what it was"
        return f"utterance {names[0]}{others}: other audio, text, place or tokens"


def _checksum(path: str) -> int:
    try:
        file, first, size = stored_at(Path(path))
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size if size is None else size
            checksum = zlib.crc32(str(size).encode())
            for start in sorted({0, max(0, size // 2 - BLOCK // 2), max(0, size - BLOCK)}):
                stream.seek(first + start)
                checksum = zlib.crc32(stream.read(min(BLOCK, size - start)), checksum)
            return checksum
    except (OSError, PathwaysError):
        return GONE
