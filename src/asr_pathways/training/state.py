"""The whole state of a training run, and its checkpoints: written whole, rotated, read without unpickling code."""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path, flush, refuse_pipes

VERSION = 1

_TRANSIENT = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Errors of a machine, not of a file."""


@dataclass
class TrainingState:
    """The state of a run, besides weights, optimizer, data and random numbers."""

    step: int = 0  # optimizer steps done
    best: list[dict[str, float]] = field(default_factory=list)  # kept models, best first: {"step", "wer": mean dev WER}
    stale: int = 0  # evaluations since the best one
    bad_losses: int = 0  # batches skipped because their loss was NaN or infinite
    seconds: float = 0.0  # of training so far
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an evaluation, for reports
    masks: list[dict[str, Any]] = field(default_factory=list)  # one entry a new mask (see `MaskEvent`), for reports
    dense: float | None = None  # mean WER on dev of the dense model that is pruned, if it was scored


class DamagedCheckpoint(PathwaysError):
    """A file that is no checkpoint, or no longer one."""


def last_checkpoint(out: Path) -> Path:
    """The last checkpoint of a run in ``out``; older ones are beside it."""
    return out / "checkpoints" / "last.pt"


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints that a run in ``out`` has kept, newest first.

    A kill during a rotation may leave no ``last.pt``; the newest is then the one before.
    """
    last = last_checkpoint(out)
    return [path for path in (last, *_older(last)) if path.exists()]


def write_checkpoint(path: Path, state: TrainingState, parts: dict[str, Any], keep: int = 1) -> None:
    """Writes ``state`` and the state dicts in ``parts``, whole or not at all.

    Args:
        path: of the file; an older one moves to ``-1`` of that name, that to ``-2``, and so on.
        state: of the run.
        parts: state dicts of everything else, by name.
        keep: checkpoints to keep, this one among them.

    Raises:
        PathwaysError: if it cannot be written; older checkpoints stay as they are.
    """
    kept = "the one before stays: make room, then go on with --resume" if path.exists() else "none was written before"
    with atomic_path(path) as temporary:
        try:
            rng = {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
            with temporary.open("wb") as stream:  # torch would report a full disk like any other error
                torch.save({"version": VERSION, "state": asdict(state), **rng, **parts}, stream)
            flush(temporary)
        except OSError as error:
            raise PathwaysError(f"{path}: cannot write checkpoint: {error.strerror or error}; {kept}") from None
        except RuntimeError as error:
            raise PathwaysError(f"{path}: cannot write checkpoint: {str(error).splitlines()[0]}; {kept}") from None
        _rotate(path, keep)


def read_checkpoint(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """Reads what :func:`write_checkpoint` wrote, and restores torch's random numbers.

    Raises:
        PathwaysError: if the file is missing or of another version, or the machine cannot read it now;
            `DamagedCheckpoint` if it is truncated, or not a checkpoint.
    """
    refuse_pipes(path)
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
        if parts.pop("version") != VERSION:
            raise PathwaysError(f"{path}: a checkpoint of another version of asr-pathways")
        state = TrainingState(**parts.pop("state"))
        torch.set_rng_state(parts.pop("rng"))
        torch.cuda.set_rng_state_all(parts.pop("cuda_rng", [])[: torch.cuda.device_count()])
    except FileNotFoundError:
        raise PathwaysError(f"{path}: no checkpoint to resume from") from None
    except PathwaysError:
        raise
    except (PermissionError, MemoryError) as error:  # of the machine, not of the file
        raise PathwaysError(f"{path}: cannot read checkpoint: {str(error) or 'out of memory'}") from None
    except UnpicklingError:  # torch would advise to load it all the same
        raise DamagedCheckpoint(
            f"{path}: not a readable checkpoint: it holds more than tensors and plain values, and is not loaded"
        ) from None
    except Exception as error:  # whatever torch raises for a truncated or foreign file
        reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        if getattr(error, "errno", None) in _TRANSIENT or "allocate memory" in reason:
            raise PathwaysError(f"{path}: cannot read checkpoint: {reason:.200}") from None
        raise DamagedCheckpoint(f"{path}: not a readable checkpoint: {reason:.200}") from None
    return state, parts


def read_last_checkpoint(out: Path) -> tuple[Path, TrainingState, dict[str, Any]]:
    """Reads the newest readable checkpoint, and returns its path first; damaged newer ones are put aside, and named.

    Raises:
        PathwaysError: if there is none, or if one is of another version; `DamagedCheckpoint` if none can be read.
    """
    paths = checkpoints(out) or [last_checkpoint(out)]
    for path in paths[:-1]:
        try:
            return path, *read_checkpoint(path)
        except DamagedCheckpoint as error:
            aside = path.with_name(f"damaged-{path.name}")
            path.replace(aside)
            print(f"{error}; it is now {aside.name}, and the run goes on from the checkpoint before", file=sys.stderr)
    return paths[-1], *read_checkpoint(paths[-1])


def _older(path: Path) -> list[Path]:
    """The files beside ``path`` that were it before, newest first."""
    pattern = re.compile(re.escape(path.stem) + r"-(\d+)" + re.escape(path.suffix))
    numbers = [int(match[1]) for other in path.parent.glob("*") if (match := pattern.fullmatch(other.name))]
    return [_numbered(path, number) for number in sorted(numbers)]


def _rotate(path: Path, keep: int) -> None:
    """Moves the file at ``path`` and the older ones one back, and removes all but ``keep - 1`` of them."""
    for number in range(keep - 1, 0, -1):
        newer = _numbered(path, number - 1)
        if newer.exists():
            newer.replace(_numbered(path, number))
    for older in _older(path)[max(0, keep - 1) :]:
        older.unlink()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}") if number else path
