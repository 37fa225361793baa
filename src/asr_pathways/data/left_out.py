"""What a run cannot use of its data, so that one broken utterance costs that utterance and not the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json, write_json


class LeftOut:
    """Utterances that cannot be used, by id, each with the reason; one more than ``most`` is an error.

    Args:
        most: when a disk is gone every utterance is broken: the run is to end then.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._reasons: dict[str, str] = {}
        self._reported = 0

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._reasons

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """A copy, in the order of their discovery."""
        return dict(self._reasons)

    @property
    def last(self) -> str:
        """The reason of the last one."""
        return list(self._reasons.values())[-1]

    def add(self, identifier: str, reason: str) -> None:
        """Notes an utterance.

        Raises:
            PathwaysError: if there are too many now.
        """
        self._reasons.setdefault(identifier, reason)
        self.require_few()

    @contextmanager
    def skipping(self, identifier: str) -> Iterator[None]:
        """An error inside the block leaves out the utterance, and nothing else is lost.

        Raises:
            PathwaysError: if there are too many now.
        """
        try:
            yield
        except PathwaysError as error:
            self.add(identifier, str(error))

    @property
    def too_many(self) -> bool:
        return len(self._reasons) > self.most

    def require_few(self) -> None:
        """Raises PathwaysError if there are too many."""
        if self.too_many:
            count = f"{len(self._reasons)} utterances" if self.most else "an utterance"
            raise PathwaysError(f"{self.last}: {count} cannot be used, giving up (max_left_out: {self.most})")

    def update(self, reasons: Mapping[str, str]) -> None:
        """Notes those of other ranks, however many they are together: see `too_many`."""
        for identifier, reason in reasons.items():
            self._reasons.setdefault(identifier, reason)

    def write(self, path: Path) -> None:
        """Writes ids and reasons as a JSON object, whole or not at all.

        Raises:
            PathwaysError: if it cannot be written.
        """
        write_json(path, self._reasons.copy())

    def read(self, path: Path) -> None:
        """Notes what was written, as known already; nothing if there is no such file.

        Raises:
            PathwaysError: if it holds anything else.
        """
        if not path.exists():
            return
        reasons = read_json(path)
        if not isinstance(reasons, dict) or not all(isinstance(reason, str) for reason in reasons.values()):
            raise PathwaysError(f"{path}: not utterances with reasons: remove it, and they are found again")
        self.update(reasons)
        self._reported = len(self._reasons)

    def new_reasons(self) -> list[str]:
        """The reasons of those noted since the last call."""
        fresh = list(self._reasons.copy().values())[self._reported :]
        self._reported += len(fresh)
        return fresh
