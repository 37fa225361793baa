"""Weights in safetensors files: written whole or not at all, and read only into the model that they are of."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules import module as registration

from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path, refuse_pipes

SPARE = 4 << 20
"""Items of buffers that a model may have beside what its file has."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the state_dict of ``model``; tensors that share memory (tied weights) once.

    Raises:
        PathwaysError: if the file cannot be written.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in untied_state(model).items()}
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata={"format": "pt"})


@contextmanager
def reading(path: Path, what: str = "weights") -> Iterator[None]:
    """Raises what safetensors raises inside the block for ``path`` as a PathwaysError, one line that names it."""
    refuse_pipes(path)
    try:
        yield
    except FileNotFoundError:
        raise PathwaysError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise PathwaysError(f"{path}: cannot read {what} (truncated or not safetensors): {error}") from None


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, by name; from its header.

    Raises:
        PathwaysError: if the file is missing or truncated.
    """
    with reading(path), safe_open(path, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def load_weights(model: nn.Module, path: Path) -> None:
    """Fills ``model`` from a safetensors file that has exactly its tensors (tied ones once).

    Raises:
        PathwaysError: if the file is missing, truncated or of another model; it names the first odd tensor.
    """
    with reading(path):
        state = load_file(path)
    take_state(model, state, str(path))


@contextmanager
def bounded(shapes: Collection[Sequence[int]], where: str) -> Iterator[None]:
    """Refuses, as it is made, a module of this thread of far more weights, buffers or parts than there are tensors.

    Args:
        shapes: of the tensors in the model's file.
        where: named in the error.

    Raises:
        PathwaysError: by what makes the module.
    """
    thread = threading.get_ident()
    most = 4 * sum(map(math.prod, shapes)) + SPARE  # tied ones are made twice, and then dropped
    parts = 8 * len(shapes) + 256
    elements = count = 0

    def register(_: nn.Module, name: str, item: Tensor | nn.Module | None) -> None:
        nonlocal elements, count
        if threading.get_ident() != thread:
            return
        count += 1
        elements += item.numel() if isinstance(item, Tensor) else 0
        if count > parts or elements > most:
            raise PathwaysError(f"{where}: {name}: the model is larger than the tensors that there are")

    with (
        registration.register_module_parameter_registration_hook(register),
        registration.register_module_buffer_registration_hook(register),
        registration.register_module_module_registration_hook(register),
    ):
        yield


def untied_state(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of ``model``, tensors that share memory (tied weights) only by their first names."""
    tied = _tied(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def take_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fills ``model`` from what `untied_state` returned for the same model.

    Raises:
        PathwaysError: if it is of another model; it names ``source`` and the first odd tensor.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = _tied(model)
    for name in sorted((shapes.keys() - tied) | state.keys()):
        actual = tuple(state[name].shape) if name in state else "missing"
        expected = shapes.get(name, "unknown")
        if actual != expected:
            raise PathwaysError(
                f"{source}: weights of another model: {name} is {actual}, the config asks for {expected}"
            )
    model.load_state_dict(state, strict=not tied)


def require_finite(model: nn.Module, source: str) -> None:
    """Raises PathwaysError, which names ``source``, if a weight of ``model`` is infinite or NaN.

    Of such a model training diverged, or an export overflowed; it recognises nothing, or anything.
    """
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise PathwaysError(f"{source}: {name} has values that are not finite: the training of it diverged")


def _tied(model: nn.Module) -> set[str]:
    """Names in the state_dict of tensors that have another name before."""
    seen: set[tuple[int, int]] = set()
    tied: set[str] = set()
    for name, tensor in model.state_dict().items():
        storage = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and storage in seen:
            tied.add(name)
        seen.add(storage)
    return tied
