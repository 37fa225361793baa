"""The processes of one run: as many as torchrun started, or one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from asr_pathways.errors import PathwaysError
from asr_pathways.training.config import LoopConfig
from asr_pathways.training.memory import keep_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launch(config: LoopConfig) -> Fabric:
    """The fabric of this process, ready to talk to the others of its run.

    torchrun says how many there are by its environment variables; elsewhere this process is alone. Several share
    the gradients by DistributedDataParallel (Li et al. 2020, arXiv 2006.15704).

    Raises:
        PathwaysError: if the precision is not one for this device.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    count, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Buffers never change here, and some parameters belong to some languages.
    strategy: Any = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if count > 1 else "auto"
    fabric = Fabric(
        accelerator="auto", strategy=strategy, devices=here, num_nodes=count // here, precision=config.precision
    )
    if config.precision == "bf16-mixed" and fabric.device.type == "cpu":
        raise PathwaysError("precision bf16-mixed is for GPUs: use 32-true")
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    return fabric
