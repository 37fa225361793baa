"""The whole state of a training run, and its checkpoints: written whole, read without unpickling code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path

VERSION = 1


@dataclass
class TrainingState:
    """Where a run stands, besides weights, optimizer, data and random numbers.

    Attributes:
        step: optimizer steps done.
        best: the kept models, best first: {"step": ..., "wer": mean dev WER}.
        stale: evaluations since the best one.
        bad_losses: batches skipped because their loss was NaN or infinite.
        seconds: time spent training so far.
        history: one entry an evaluation, for reports.
        masks: one entry a new mask (see `MaskEvent`), for reports.
    """

    step: int = 0
    best: list[dict[str, float]] = field(default_factory=list)
    stale: int = 0
    bad_losses: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)


def last_checkpoint(out: Path) -> Path:
    """Where a run in ``out`` keeps what resuming needs."""
    return out / "checkpoints" / "last.pt"


def write_checkpoint(path: Path, state: TrainingState, parts: dict[str, Any]) -> None:
    """Writes ``state`` and the state dicts in ``parts``, whole or not at all.

    Raises:
        PathwaysError: if it cannot be written; an older checkpoint at ``path`` stays.
    """
    with atomic_path(path) as temporary:
        try:
            rng = {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
            torch.save({"version": VERSION, "state": asdict(state), **rng, **parts}, temporary)
        except RuntimeError as error:  # torch's writer reports a full disk so
            raise PathwaysError(f"{path}: cannot write checkpoint: {str(error).splitlines()[0]}") from None


def read_checkpoint(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """Reads what :func:`write_checkpoint` wrote, and restores torch's random numbers.

    Raises:
        PathwaysError: if the file is missing, truncated, or not such a checkpoint.
    """
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
    except Exception as error:  # whatever a truncated or foreign file makes torch raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PathwaysError(f"{path}: not a readable checkpoint: {reason:.200}") from None
    return state, parts
