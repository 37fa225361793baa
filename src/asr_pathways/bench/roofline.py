"""How fast sparse weights could be at best here: the roofline model (Williams, Waterman and Patterson, 2009)."""

from __future__ import annotations

import torch

from asr_pathways.models.transducer import Transducer
from asr_pathways.runtime.kernels import extension, variants
from asr_pathways.runtime.layers import PackedLayer, SparseLstm

OUT_OF_CACHE = 256 * 2**20
"""Bytes, more than a processor's caches hold."""


def multiply_add_rate() -> float:
    """Multiply-adds of float32 a second, on one thread, in registers."""
    return extension.compiled.multiply_add_rate(variants()[0])


def read_rate(size: int) -> float:
    """Bytes a second at which one thread reads ``size`` bytes in order, again and again."""
    buffer = torch.ones(max(size // 4, 4096))
    rounds = max(4, 2**26 // size)
    return extension.compiled.read_rate(buffer.data_ptr(), buffer.numel(), rounds, variants()[0])


def chunk_roofline(model: Transducer, symbols: float) -> float:
    """Seconds that one thread needs at least for a chunk's products with the weights of encoder layers and predictor.

    The longer of two times: reading all of them once, and multiplying at the peak rate.

    Args:
        model: with sparse layers.
        symbols: that a chunk gives, each of them a step of the predictor.
    """
    config = model.config.encoder
    rows = config.segment + config.right_context
    held, products = 0.0, 0.0
    for module in model.modules():
        if isinstance(module, PackedLayer):
            weights, times, read = module.weights, float(rows), 1.0
        elif isinstance(module, SparseLstm):
            weights, times, read = [weight for cell in module.cells for weight in cell[:2]], symbols, symbols
        else:
            continue
        held += read * sum(weight.nbytes for weight in weights)
        products += times * sum(weight.nonzeros for weight in weights)
    return max(held / read_rate(OUT_OF_CACHE), products / multiply_add_rate())
