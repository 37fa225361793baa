"""New processes that start in milliseconds: forked from a server that has imported what runs import when they need it.

Not forked from the tests' own process, whose threads and GPU do not outlive a fork. Importing is five sixths of the
time of a run on tiny data.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

import kaldi_native_fbank  # noqa: F401
import lhotse  # noqa: F401
import sentencepiece  # noqa: F401
import soundfile  # noqa: F401
import soxr  # noqa: F401
import torch._dynamo
import torch.utils.tensorboard  # noqa: F401
from lightning_fabric import Fabric  # noqa: F401
from lightning_fabric.strategies import DDPStrategy  # noqa: F401


def context() -> ForkServerContext:
    """Where to make a `Process`; its target is a function of a module."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "tests.conftest"])
    return server
