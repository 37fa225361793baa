"""What a run cannot use of its data, so that one broken utterance costs that utterance and not the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json, write_json


class Unfit(PathwaysError):
    """An utterance is whole, and does not fit the model."""


class LeftOut:
    """Utterances that cannot be used, by id, each with the reason; more broken ones than ``most`` are an error.

    Args:
        most: when a disk is gone every utterance is broken: the run is to end then. Those that are whole and do not fit
            the model (`Unfit`) may be any number.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._reasons: dict[str, str] = {}
        self._unfit: set[str] = set()
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

    def add(self, identifier: str, error: PathwaysError) -> None:
        """Notes an utterance, and why.

        Raises:
            PathwaysError: if there are too many now.
        """
        self.note({identifier: error})
        self.require_few()

    def note(self, errors: Mapping[str, PathwaysError]) -> None:
        """Notes utterances, however many they are."""
        self._unfit.update(name for name, error in errors.items() if isinstance(error, Unfit))
        self.update({name: str(error) for name, error in errors.items()})

    def require_few(self) -> None:
        """Raises PathwaysError if there are too many."""
        broken = [reason for name, reason in self._reasons.copy().items() if name not in self._unfit]
        if len(broken) > self.most:
            count = f"{len(broken)} utterances" if self.most else "an utterance"
            raise PathwaysError(f"{broken[-1]}: {count} cannot be used, giving up (max_left_out: {self.most})")

    def update(self, reasons: Mapping[str, str]) -> None:
        """Notes those of other ranks, however many they are together."""
        for identifier, reason in reasons.items():
            self._reasons.setdefault(identifier, reason)

    def write(self, path: Path) -> None:
        """Writes ids and reasons as a JSON object, whole or not at all.

        Raises:
            PathwaysError: if it cannot be written.
        """
        write_json(path, self._reasons.copy())

    def read(self, path: Path) -> None:
        """Notes what was written, as reported already; nothing if there is no such file.

        Raises:
            PathwaysError: if it is anything else.
        """
        if not path.exists():
            return
        reasons = read_json(path)
        if not isinstance(reasons, dict) or not all(isinstance(reason, str) for reason in reasons.values()):
            raise PathwaysError(f"{path}: not utterances with reasons: remove it, and they are looked for again")
        self.update(reasons)
        self._reported = len(self._reasons)

    def new_reasons(self) -> list[str]:
        """The reasons of those noted since the last call."""
        reasons = list(self._reasons.copy().values())[self._reported :]
        self._reported += len(reasons)
        return reasons
