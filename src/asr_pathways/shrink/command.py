"""The command ``shrink``: looks at a model, its data and the time there is, and does what ledgers here say is best."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.layout import Score
from asr_pathways.bundle.load import load_model
from asr_pathways.config import differences, parse_config
from asr_pathways.console import make_console, print_table
from asr_pathways.data.corpora.manifest import prepare_manifest
from asr_pathways.data.corpus import is_data_folder
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.evaluation.corpus_check import concerns, smallest_difference
from asr_pathways.files import read_json, write_json
from asr_pathways.formats import percent, points
from asr_pathways.lock import alone_in
from asr_pathways.shrink.compare import System, TestSet, bytes_of, comparison_table, not_faster
from asr_pathways.shrink.planning import Chosen, choose_plan, load_dense, recipe_of, tuning_of
from asr_pathways.shrink.plans import DENSER, LONGEST, Target
from asr_pathways.training.interrupt import resumable
from asr_pathways.training.memory import release_memory
from asr_pathways.training.prune import prune
from asr_pathways.training.run import check_place, has_ended, remove_checkpoints
from asr_pathways.training.scoring import beside_dense, warning
from asr_pathways.training.train import train


@dataclass(frozen=True)
class Job:
    """A run of the command: its folder and what was chosen; ``began`` on the monotonic clock."""

    out: Path
    data: Path
    chosen: Chosen
    began: float

    @property
    def bundle(self) -> Path:
        return self.out / f"{self.out.resolve().name}.asrp"

    @property
    def start(self) -> Path:
        """The dense model that is pruned."""
        return self.out / "dense" if self.chosen.finetune else Path(self.chosen.model)


@dataclass(frozen=True)
class Outcome:
    """What a run of the command ends with.

    Attributes:
        bundle: the result.
        split: on which the systems were compared.
        systems: the dense model, perhaps the finetuned one, and the bundle.
        lines: what is to be known of them.
        commands: what to do with it next, without the program's name.
    """

    bundle: Path
    split: str
    systems: tuple[System, ...]
    lines: tuple[str, ...]
    commands: tuple[str, ...]


def shrink(
    model: Path,
    data: Path,
    out: Path,
    languages: Sequence[str],
    *,
    target: Target = "accuracy",
    budget: float = 0.0,
    resume: bool = False,
) -> Outcome:
    """Prunes ``model`` for some languages within a budget of time, and prints it beside the dense one.

    Args:
        model: a dense MODEL.
        data: a data folder, or a manifest as of ``data manifest``.
        out: the run folder; ``NAME.asrp`` in it is the bundle, ``pruned`` the MODEL.
        languages: of the bundle.
        target: what counts most.
        budget: seconds; 0: nothing is trained.
        resume: go on with the run in ``out``, if there is one.

    Raises:
        PathwaysError: for anything the user can mend; nothing that was done is lost; `Interrupted` by Ctrl-C and
            SIGTERM.
    """
    began = time.monotonic()
    asked = {"model": str(model), "data": _said(data), "target": target, "budget": float(budget)}
    with resumable(out), alone_in(out, "another run is there: wait for it, or choose another folder"):
        known = _known(out, asked, languages, resume)
        if known is None and not data.is_dir():
            load_dense(model, languages)  # what is wrong with it is said before hours of recordings are imported
        print(f"{out}: reading {data}", file=sys.stderr)
        if not data.is_dir():
            if known is None or not is_data_folder(out / "data"):  # the manifest may have been mended since
                _import(data, out / "data")
            data = out / "data"
        chosen = known or choose_plan(model, data, str(asked["data"]), out, languages, target, budget, began)
        release_memory()
        try:
            return _finish(_trained(Job(out, data, chosen, began)))
        except Interrupted:  # of a part of the run: --resume is of all of it
            raise KeyboardInterrupt from None


def _known(out: Path, asked: dict[str, object], languages: Sequence[str], resume: bool) -> Chosen | None:
    """The plan of the run in ``out``."""
    path = out / "plan.json"
    if not path.exists():
        check_place(out)
        return None
    if not resume:
        raise PathwaysError(f"{out}: holds a run already: go on with --resume, or choose another folder")
    known = parse_config(Chosen, read_json(path), str(path))
    before = {name: getattr(known, name) for name in asked} | {"languages": list(known.named)}
    if changed := ", ".join(differences({**asked, "languages": sorted(languages)}, before)):
        raise PathwaysError(f"{out}: the run there was asked for otherwise: {changed}: cannot resume it")
    return known


def _said(data: Path) -> str:
    """The path and a hash of what a data folder or a manifest says: no run goes on with other data.

    Raises:
        PathwaysError: if it cannot be read.
    """
    whole = hashlib.sha256()
    for path in sorted(data.glob("cuts_*")) if data.is_dir() else [data]:
        try:
            whole.update(path.read_bytes())
        except OSError as error:
            raise PathwaysError(f"{path}: cannot read: {error.strerror}") from None
    return f"{data} ({whole.hexdigest()[:12]})"


def _import(manifest: Path, out: Path) -> None:
    """Makes the data folder of a manifest, and prints what is wrong with its rows and what they cannot show."""
    for bad in prepare_manifest(out, manifest):
        print(f"{manifest}, line {bad.line}: left out: {bad.reason}", file=sys.stderr)
    for line in concerns(out):
        print(f"{out}: {line}", file=sys.stderr)


def _trained(job: Job) -> Job:
    """Finetunes, if that was chosen, and prunes, with what is chosen then; what is done already is not done again."""
    chosen, dense, pruned = job.chosen, job.out / "dense", job.out / "pruned"
    if chosen.finetune and not has_ended(dense):
        recipe, start = tuning_of(chosen.finetune, chosen.precision), Path(chosen.model)
        state = train(recipe, job.data, dense, init=start, languages=chosen.languages, resume=_begun(dense))
        pace = state.seconds / max(1, state.step)
        chosen = chosen.in_time(pace, max(state.seconds, time.monotonic() - job.began))
        if chosen != job.chosen:
            took = f"finetuning took {pace:.2g} s a step, {chosen.pace:.2g} as timed"
            fewer = f"{chosen.steps:,} steps of training after pruning, not {job.chosen.steps:,}"
            print(f"{took}: {fewer}, to keep to the budget", file=sys.stderr)
            write_json(job.out / "plan.json", chosen.model_dump(mode="json"))
        remove_checkpoints(dense)
        release_memory()
    if not has_ended(pruned):
        prune(
            job.start,
            job.data,
            pruned,
            sparsity=chosen.sparsity,
            recipe=recipe_of(load_model(job.start).model, chosen.steps, chosen.refit, chosen.precision),
            languages=chosen.languages,
            resume=_begun(pruned),
        )
        remove_checkpoints(pruned)
        release_memory()
    return replace(job, chosen=chosen)


def _begun(folder: Path) -> bool:
    return (folder / "checkpoints" / "start").exists()


def _finish(job: Job) -> Outcome:
    """Writes the bundle, compares it with the dense model, and prints what is to be known of it."""
    chosen, bundle, tested = job.chosen, job.bundle, TestSet.of(job.data, job.chosen.languages)
    asr = load_model(job.out / "pruned")
    write_bundle(asr, bundle, chosen.dtype)
    finetuned = [("finetuned, dense", job.start)] if chosen.finetune else []
    places = [("dense", Path(chosen.model)), *finetuned, (f"pruned, {chosen.sparsity:.0%}", bundle)]
    systems = [_compared(job, tested, name, place) for name, place in places]
    dense, pruned = systems[0].scored, systems[-1].scored
    said = [beside_dense(pruned.mean_wer, dense.mean_wer, tested.split)]
    if chosen.finetune:
        tuned = systems[1].scored.mean_wer
        said[0] += f", finetuned {percent(tuned)}% ({points(pruned.mean_wer - tuned)})"
    said += filter(None, [warning(pruned.mean_wer, dense.mean_wer, _more(chosen))])
    asr.card = asr.card.model_copy(update={"quality": "; ".join(said)})
    scores = {one.language: Score(wer=one.wer.rate, words=one.words) for one in pruned.languages}
    write_bundle(asr, bundle, chosen.dtype, scores=scores)
    words = sum(entry.words for entry in dense.languages)
    small = f"{words:,} words: differences of WER below about {smallest_difference(words)} are not shown"
    language = chosen.languages[0]
    recording = tested.longest(language).recording.sources[0].source
    commands = (
        f"transcribe {quote(str(bundle))} --language {language} {quote(recording)}",
        f"serve {quote(str(bundle))}",
        f"export {quote(str(job.out / 'pruned'))} {quote(f'{bundle.stem}-{language}')} --format hf "
        f"--languages {language}",
    )
    outcome = Outcome(bundle, tested.split, tuple(systems), (*said, small, *not_faster(systems)), commands)
    print_table(comparison_table(systems, tested.split))
    for line in (*outcome.lines, *(f"  asr-pathways {command}" for command in commands)):
        make_console().print(line, soft_wrap=True)
    return outcome


def _compared(job: Job, tested: TestSet, name: str, model: Path) -> System:
    """Scores of a system; of a dense one they are kept, so that a run that goes on does not recognise all again."""
    path = job.out / f"{name.replace(', ', '-').replace('%', '')}.json"
    if path.exists():
        return parse_config(System, read_json(path), str(path))
    system = tested.compared(name, model, bytes_of(model))
    write_json(path, system.model_dump(mode="json"))
    return system


def _more(chosen: Chosen) -> str:
    """What makes a better model."""
    hours = max(2, math.ceil(2 * chosen.budget / 3600))
    longer = f"give it more time (--budget {f'{hours}h' if chosen.budget else '30m'}), or "
    rest = "prune less (--target accuracy)" if chosen.sparsity > DENSER else "give it more speech"
    return (longer if chosen.steps < LONGEST else "") + rest
