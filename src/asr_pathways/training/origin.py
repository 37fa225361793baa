"""What a run began with, kept in its checkpoints: data, model, recipe and machine of one that goes on are compared."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from asr_pathways import ranks
from asr_pathways.config import differences
from asr_pathways.data.identity import Identity
from asr_pathways.data.left_out import LeftOut
from asr_pathways.errors import PathwaysError
from asr_pathways.training.inputs import RunData
from asr_pathways.training.run import Run

REFUSED = "resume with what it was made with, or start a new run"

OF_THE_START = ("calibration_batches", "refit_batches", "refit_steps", "drop_layers", "init_steps", "data.features")
"""Options of recipes that decide what a run begins with, and nothing after that."""


@dataclass(frozen=True)
class Origin:
    """Of what a run is made.

    Attributes:
        identity: of its utterances, by split.
        model: a checksum of the weights that it begins with.
        recipe: of the run, as plain data.
        machine: what decides the order of sums, and so the last bits of the weights.
    """

    identity: Mapping[str, Identity]
    model: int
    recipe: dict[str, Any]
    machine: dict[str, Any]

    @classmethod
    def of(cls, run: Run, data: RunData) -> Origin:
        """That of a run on this machine.

        Raises:
            PathwaysError: if other processes of the run have other utterances or another model.
        """
        machine = {
            "torch": torch.__version__,
            "device": run.fabric.device.type,
            "instruction set": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "processes": run.fabric.world_size,
        }
        recipe = run.config.model_dump(mode="json", exclude={"threads"})
        parts = {f"utterances in {split}": _checksum(identity) for split, identity in data.identity.items()}
        gathered = ranks.gather({**parts, "model": data.model}, run.fabric.device)
        for rank, other in enumerate(gathered):
            for name, checksum in gathered[0].items():
                if other[name] != checksum:
                    raise PathwaysError(f"rank {rank} has other {name} than rank 0: all must have the same files")
        return cls(data.identity, data.model, recipe, {name: str(value) for name, value in machine.items()})

    def state_dict(self, left_out: LeftOut) -> dict[str, Any]:
        """Only tensors and plain values."""
        return {
            "identity": {split: identity.sums for split, identity in self.identity.items()},
            "left_out": list(left_out.reasons),
            "model": self.model,
            "recipe": self.recipe,
            "machine": self.machine,
        }

    def compare(self, earlier: Mapping[str, Any] | None, where: str) -> list[str]:
        """Lines on what is different from the ``earlier`` state, and yet no hindrance.

        Raises:
            PathwaysError: if the utterances or the model are others; ``where`` the run is is named.
        """
        if earlier is None:
            return [f"{where}: the checkpoint is of an older release: whether data and model are the same is not known"]
        for split, identity in self.identity.items():
            difference = identity.difference(earlier["identity"][split], earlier["left_out"])
            if difference is not None:
                raise PathwaysError(f"{where}: {split}: {difference} than in the checkpoint: {REFUSED}")
        if self.model != earlier["model"]:
            raise PathwaysError(f"{where}: the run there began with another model: {REFUSED}")
        if self.recipe.get("model") != earlier["recipe"].get("model"):
            raise PathwaysError(f"{where}: the run there is of a model of other sizes than the recipe's: {REFUSED}")
        lines = []
        if changed := ", ".join(differences(self.machine, earlier["machine"])):
            lines.append(f"{where}: goes on with {changed}: the weights will not be the same to the last bit")
        changes = list(differences(self.recipe, earlier["recipe"]))
        names = tuple(f"{name}{end}" for name in OF_THE_START for end in " .")
        begun = [change for change in changes if change.startswith(names)]
        if changed := ", ".join(change for change in changes if change not in begun):
            lines.append(f"{where}: goes on with another recipe, from here on: {changed}")
        if begun:
            lines.append(f"{where}: has begun, so it goes on as it was: {', '.join(begun)}: for that start a new run")
        return lines


def _checksum(identity: Identity) -> int:
    return zlib.crc32(identity.sums.numpy().tobytes())
