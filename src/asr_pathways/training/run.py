"""A training run: its folder, which one process at a time trains into, and the processes that share the work."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asr_pathways import ranks
from asr_pathways.config import differences
from asr_pathways.data.corpus import ABOUT
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_folder, remove_leftovers, write_json
from asr_pathways.lock import LOCK, alone_in, held, is_held
from asr_pathways.model_folder.folder import CARD, save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.training.config import LoopConfig
from asr_pathways.training.interrupt import resumable
from asr_pathways.training.memory import keep_freed_memory
from asr_pathways.training.state import checkpoints

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Run:
    """A run of ``train``, ``prune`` or ``add-language``; made by :func:`open_run`."""

    out: Path  # the run folder; the first rank writes it, and all must see it
    config: LoopConfig
    fabric: Fabric
    resumes: bool = False  # from a checkpoint in ``out``; otherwise the run begins

    @property
    def start(self) -> Path:
        """The MODEL folder that the run starts from."""
        return self.out / "checkpoints" / "start"

    @property
    def solved(self) -> Path:
        """Where refitting keeps what it has solved until the run has a checkpoint: from ``start`` none goes on."""
        return self.out / "checkpoints" / "refitted"

    def save_start(self, asr: AsrModel) -> None:
        """Writes the start of the run, by the first rank; the others wait."""
        if self.fabric.is_global_zero:
            with atomic_folder(self.start) as temporary:
                save_model(temporary, asr)
        self.fabric.barrier()


ENDED = "ended.json"
"""In a run folder whose checkpoints were removed after the run had ended."""


def check_place(out: Path) -> None:
    """A run may begin in ``out``: whatever is there is not of something else, which it would write over.

    Raises:
        PathwaysError: if a data folder is there, or a MODEL that no run there made.
    """
    if (out / ABOUT).exists():
        raise PathwaysError(f"{out}: is a data folder: choose another folder for the run")
    ours = ("checkpoints", "history.json", ENDED)  # an experiment removes the first, and has no last
    if (out / CARD).exists() and not any((out / name).exists() for name in ours):
        raise PathwaysError(f"{out}: holds a MODEL, which the run would write over: choose another folder")


def has_ended(out: Path) -> bool:
    """Whether the run in ``out`` has ended, and its checkpoints were removed."""
    return (out / ENDED).is_file()


def remove_checkpoints(out: Path) -> int:
    """Removes what only resuming needs from the folder of a run that has ended; returns how many bytes that were.

    A kill half-way leaves a folder that still counts as one of a run that has ended.

    Raises:
        PathwaysError: if that cannot be written down.
    """
    folders = [out / "checkpoints", *(out / "init").glob("*/checkpoints")]  # the latter of runs for first masks
    freed = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    write_json(out / ENDED, {"bytes": freed})
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return freed


@contextmanager
def open_run(out: Path, config: LoopConfig, resume: bool, **options: Any) -> Iterator[Run]:
    """A run in the folder ``out``, which is locked inside the block, and cleared of half-written files of killed runs.

    With ``resume`` the run goes on from the last checkpoint if there is one, else it begins; without, a folder with a
    run in it is refused. All processes of the run must have the same ``config`` and ``options``, plain data.

    Raises:
        PathwaysError: if another process trains there, or a run is there already, or as `check_place` and `launch` do;
            if the processes were started differently, or one of them ended before the others: it is named;
            `Interrupted` by Ctrl-C or SIGTERM.
    """
    check_place(out)
    with ExitStack() as stack:
        stack.enter_context(resumable(out))
        if int(os.environ.get("RANK", "0")) == 0:  # torchrun's number of this process
            stack.enter_context(alone_in(out, "another run is training there: wait for it, or choose another folder"))
            for folder in (out, out / "checkpoints", *(out / "checkpoints").glob("*/")):
                remove_leftovers(folder)
            for path in out.glob(f"{LOCK}-*"):  # of killed processes
                path.unlink(missing_ok=True)
        fabric = launch(config)
        run = Run(out, config, fabric, resume and bool(checkpoints(out)))
        if resume and has_ended(out):
            raise PathwaysError(
                f"{out}: the run there has ended, and its checkpoints were removed: choose another folder"
            )
        if (run.start.exists() or has_ended(out)) and not resume:
            raise PathwaysError(f"{out}: holds a run already: go on with --resume, or choose another folder")
        if resume and not run.resumes and fabric.is_global_zero:
            print(f"{out}: no run to resume there: it begins now", file=sys.stderr)
        _require_same(fabric, {**config.model_dump(mode="json"), **options, "resume": resume})
        if fabric.world_size > 1:
            stack.enter_context(held(_lock_of(out, fabric.global_rank)))
        fabric.barrier()  # all have looked before the first writes
        try:
            yield run
        except RuntimeError as error:
            if ended := _ended(run):
                raise PathwaysError(
                    f"rank {', '.join(map(str, ended))} ended, and so does rank {fabric.global_rank}: messages before "
                    "this one may say why; start all of them again with --resume"
                ) from error
            raise


def _require_same(fabric: Fabric, settings: dict[str, Any]) -> None:
    """Raises PathwaysError if this run's processes were not all started with the same ``settings``."""
    gathered = ranks.gather(settings, fabric.device)
    for rank, other in enumerate(gathered):
        if changed := ", ".join(differences(other, gathered[0], was="rank 0:")):
            raise PathwaysError(f"rank {rank} was started otherwise than rank 0: {changed}")


def _lock_of(out: Path, rank: int) -> Path:
    return out / f"{LOCK}-{rank}"


def _ended(run: Run) -> list[int]:
    """The other processes of the run that are no more: a connection that breaks is the first sign of it."""
    others = [rank for rank in range(run.fabric.world_size) if rank != run.fabric.global_rank]
    for _ in range(20):
        ended = [rank for rank in others if not is_held(_lock_of(run.out, rank))]
        if ended or not others:
            return ended
        time.sleep(0.1)
    return []


def launch(config: LoopConfig) -> Fabric:
    """The fabric of this process, connected to the others of its run.

    torchrun sets their number in environment variables; elsewhere this process is alone. Several share the gradients
    by DistributedDataParallel (Li et al. 2020, arXiv 2006.15704).

    Raises:
        PathwaysError: if the precision is not one for this device, or the processes cannot connect.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it uses is what the recipe says
    count, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Buffers never change here, and some parameters are of some languages only.
    strategy: Any = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if count > 1 else "auto"
    fabric = Fabric(
        accelerator="auto", strategy=strategy, devices=here, num_nodes=count // here, precision=config.precision
    )
    if config.precision == "bf16-mixed" and fabric.device.type == "cpu" and not multiplies_bfloat16():
        raise PathwaysError("precision bf16-mixed needs a GPU, or a CPU with AVX512-BF16 or AMX: use 32-true")
    try:
        fabric.launch()
    except (RuntimeError, ValueError) as error:  # such as torch's of networks and of torchrun's variables
        if count == 1:
            raise
        raise PathwaysError(f"the {count} processes cannot connect: {' '.join(str(error).split()):.200}") from error
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    return fabric


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; without, they are slower than those of float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
