"""Refitting in a run: what it needs is said and checked first, and what is solved outlives an interruption."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from asr_pathways.data.batches import Batch
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.files import atomic_path
from asr_pathways.formats import duration, size
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.refit.refitting import Refitting
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.inputs import Inputs, RunData
from asr_pathways.training.memory import free_memory
from asr_pathways.training.run import Run
from asr_pathways.training.state import DamagedCheckpoint, TrainingState, read_checkpoint, write_checkpoint

_ALONE_EACH = 3
"""Of so many batches one has an utterance in a window of its own, as a model that pads to a window often gets them."""

_HALF = 0.5

_SAMPLE = 4
"""The largest of the first so many batches stands for all when memory and time are estimated."""


def stages(config: PathwayConfig, recipe: PruneRecipe) -> tuple[float, ...]:
    """The sparsities at which masks are chosen and weights refitted, one after the other; the last is ``config``'s.

    By score ``fisher`` half of the weights go first where more are to go: what matters of the others shows when the
    layers have been solved for without them. Whisper-base, 70%, two languages: the divergence from the dense model's
    posteriors is 15 to 34% lower than with all at once (docs/models.md).
    """
    first = recipe.refit_batches and "fisher" in config.score_needs and config.sparsity > _HALF
    return (_HALF, config.sparsity) if first else (config.sparsity,)


def refit(
    run: Run,
    asr: AsrModel,
    dense: SpeechModel,
    inputs: Inputs,
    recipe: PruneRecipe,
    keep_masks: Callable[[], None] = lambda: None,
) -> None:
    """Solves for the weights that the masks keep, on input as in training; goes on with what an earlier try solved.

    Blocks are brought nearer to those of the dense model when the masks have got to their sparsity.

    ``keep_masks`` is called before the first is solved for, as what `choose_once` returns.

    Raises:
        PathwaysError: if it needs more memory than there is, or what is solved cannot be written.
    """
    pathways, first = asr.pathways, run.fabric.is_global_zero
    assert pathways is not None
    for model in (asr.model, dense):
        model.eval()
        if recipe.optimizer.steps:
            model.train_on_short_windows()
    count, steps = recipe.refit_batches, recipe.refit_steps if pathways.at_target else 0

    def drawn(language: str, most: int = count) -> list[Batch]:
        return [batch.to(asr.device) for batch in islice(inputs.calibration(asr, language, _ALONE_EACH), most)]

    sample = max(drawn(pathways.languages[0], min(count, _SAMPLE)), key=lambda batch: batch.features.numel())
    refitting = Refitting(pathways, asr.model.loss, dense.network, dense.loss, sample, dense.input_positions)
    bytes_ = refitting.bytes(count, steps) + len(pathways.languages) * count * sample.features.nbytes
    if (free := free_memory(asr.device)) is not None and bytes_ > free:
        raise PathwaysError(
            f"recipe: refit_batches: {count} batches a language need about {size(bytes_)} of memory, and {size(free)} "
            "are free: take fewer, or smaller ones (data.max_seconds)"
        )
    keep_masks()
    batches = {language: drawn(language) for language in pathways.languages}
    folder = run.solved if pathways.at_target else run.solved / f"{pathways.sparsity:g}"
    solved = Solved(folder, _fingerprint(asr, recipe, batches), writes=first)
    if first:
        parts = len(refitting.groups) + (len(refitting.blocks) if steps else 0)
        done = f" ({len(solved)} of {parts} parts are done)" if len(solved) else ""
        needs = f"about {duration(refitting.seconds(count, steps))} and {size(bytes_)} more memory"
        at = "" if pathways.at_target else f" at {100 * pathways.sparsity:g}% first"
        print(f"Refitting{at} on {count} batches a language: {needs}{done}", file=sys.stderr)
    progress = partial(track, label="Refitting") if first else iter
    refitting.run(batches, steps=steps, progress=progress, solved=solved)


def choose_once(
    run: Run, pathways: Pathways, recipe: PruneRecipe, data: RunData, choose: Callable[[], None]
) -> Callable[[], None]:
    """Calls ``choose`` for the masks to refit, unless an earlier try of the run did: what it solved is of its masks.

    Chosen again on another number of threads, some would differ.

    Returns:
        What writes them for a later try; it raises a PathwaysError if that cannot be.
    """
    parts = recipe.model_dump_json(), pathways.config.model_dump_json(), pathways.languages, pathways.sparsity
    whole = repr((*parts, data.model, data.identity["train"].sums.tolist()))
    path = run.solved / f"masks-{hashlib.sha256(whole.encode()).hexdigest()}.pt"
    if path.exists():
        with suppress(DamagedCheckpoint):
            pathways.load_state_dict(read_checkpoint(path)[1]["pathways"])
            return lambda: None
    choose()

    def keep() -> None:
        if run.fabric.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, TrainingState(), {"pathways": pathways.state_dict()})

    return keep


class Solved(MutableMapping[str, Mapping[str, Tensor]]):
    """New weights of layers that were solved for, by the first one's name: a safetensors file each.

    Args:
        folder: of the files.
        fingerprint: files with another one are of another run, and count as missing.
        writes: whether this process writes them.
    """

    def __init__(self, folder: Path, fingerprint: str, writes: bool = True) -> None:
        self._folder, self._fingerprint, self._writes = folder, fingerprint, writes
        found = {path.stem: self._read(path) for path in sorted(folder.glob("*.safetensors"))}
        self._weights: dict[str, Mapping[str, Tensor]] = {
            name: weights for name, weights in found.items() if weights is not None
        }

    def __getitem__(self, name: str) -> Mapping[str, Tensor]:
        return self._weights[name]

    def __setitem__(self, name: str, weights: Mapping[str, Tensor]) -> None:
        self._weights[name] = weights
        if not self._writes:
            return
        path = self._folder / f"{name}.safetensors"
        state = {layer: weight.detach().cpu().contiguous() for layer, weight in weights.items()}
        with atomic_path(path) as temporary:
            try:
                save_file(state, temporary, metadata={"fingerprint": self._fingerprint})
            except SafetensorError as error:
                raise PathwaysError(f"{path}: cannot write: {error}") from None

    def __delitem__(self, name: str) -> None:
        del self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        """None if the file is of another run, or damaged: its layers are then solved for again."""
        try:
            with safe_open(path, "pt") as stream:
                if (stream.metadata() or {}).get("fingerprint") == self._fingerprint:
                    return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            pass
        return None


def _fingerprint(asr: AsrModel, recipe: PruneRecipe, batches: Mapping[str, list[Batch]]) -> str:
    """Of all that decides the result: weights, masks, data."""
    assert asr.pathways is not None
    total = hashlib.sha256(recipe.model_dump_json().encode())
    for masks in asr.pathways.stored().masks.values():
        for mask in masks.values():
            total.update(mask.cpu().numpy().tobytes())
    for weight in asr.model.network.parameters():
        total.update(weight.detach().float().cpu().numpy().tobytes())
    for group in batches.values():
        for batch in group:
            total.update(batch.features.cpu().numpy().tobytes() + batch.targets.cpu().numpy().tobytes())
    return total.hexdigest()
