"""Which plan of `plans` fits a model, its data and a budget of time, by what is measured on this machine."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from asr_pathways.bundle.layout import Quantity, is_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.config import Config
from asr_pathways.data.corpus import spoken_rows
from asr_pathways.errors import PathwaysError
from asr_pathways.files import write_json
from asr_pathways.formats import duration, percent, size
from asr_pathways.model_folder.folder import fastest_device
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.speech_model import SpeechModel
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import PathwayConfig
from asr_pathways.shrink.compare import System, TestSet
from asr_pathways.shrink.plans import DTYPES, HUB, OWN, Plan, Target, choose
from asr_pathways.training.config import LoopConfig, PruneRecipe, TrainRecipe
from asr_pathways.training.defaults import default_method, finetune_recipe, oneshot_recipe, prune_recipe
from asr_pathways.training.estimate import Estimate, Pace, estimate, measure, middle
from asr_pathways.training.inputs import Inputs
from asr_pathways.training.prune import pathway_config
from asr_pathways.training.run import Run, launch, multiplies_bfloat16

Precision = Literal["32-true", "bf16-mixed"]
RecipeT = TypeVar("RecipeT", bound=LoopConfig)

_SAMPLE = 6
"""Utterances a language by which the dense model's WER and speed are guessed."""

_SHORT = 0.3
"""Time of recognition in windows of an utterance's length, over that in whole ones: of whisper-base on the prompts."""

_KEPT = 4
"""Of the steps after finetuning one in so many is taken, however slow the machine has become."""

_CHECKPOINTS = 4
"""Of each run, at least: a crash costs a quarter of it."""

_FIXED = 15.0
"""Seconds for loading and writing."""


class Chosen(Config):
    """What was asked for, and what was chosen: ``plan.json`` in the run folder, by which a run goes on.

    ``named`` are the languages as they were written, ``data`` is the path and a hash of what the data folder or the
    manifest that was given says. Of seconds that were expected, ``pace`` are those of a step of
    finetuning, ``step`` of a step after it, ``rest`` of all that comes after it; 0 if they do not count any more.
    """

    model: str
    data: str
    named: tuple[str, ...]
    languages: tuple[str, ...]
    target: Target
    budget: float
    finetune: int
    steps: int
    refit: int
    sparsity: float
    dtype: Quantity
    precision: Precision
    pace: float = 0.0
    step: float = 0.0
    rest: float = 0.0

    def in_time(self, pace: float, spent: float) -> Chosen:
        """With so many steps after finetuning as fit the budget.

        Args:
            pace: seconds that a step of finetuning took: if more than expected, so will all that follows.
            spent: seconds that are over.
        """
        slower = max(1.0, pace / self.pace) if self.pace else 1.0
        late = spent + slower * self.rest - self.budget
        if not self.rest or late <= 0:
            return self
        fewer = math.ceil(late / (slower * self.step))
        return self.model_copy(update={"steps": max(self.steps // _KEPT, self.steps - fewer, 1), "rest": 0.0})


def load_dense(model: Path, languages: Sequence[str]) -> AsrModel:
    """The dense MODEL, which knows the languages.

    Raises:
        PathwaysError: if it is pruned already, or does not know a language.
    """
    asr = load_model(model)
    if is_bundle(model) or asr.pathways is not None:
        raise PathwaysError(f"{model}: is pruned already: start from the dense model")
    asr.check_languages(languages)
    return asr


def choose_plan(
    model: Path,
    data: Path,
    given: str,
    out: Path,
    languages: Sequence[str],
    target: Target,
    budget: float,
    began: float,
) -> Chosen:
    """Measures, chooses, and prints what is going to be done; it is then in ``out``.

    ``given`` says of what ``data`` is made, as `Chosen.data`. What is over since ``began``, on the monotonic clock,
    counts as time, too.

    Raises:
        PathwaysError: as `load_dense` does, or if the data have nothing to train on in a language, or to score on.
    """
    asr = load_dense(model, languages)
    speech = _speech(data)
    codes = asr.languages_for(languages, speech)
    if missing := [code for code in codes if code not in speech]:
        held = ", ".join(sorted(speech)) or "nothing"
        raise PathwaysError(f"{data}: no {missing[0]!r} in split 'train': it holds {held}")
    print(f"{model}: timing recognition on this machine", file=sys.stderr)
    tested, costs = TestSet.of(data, codes), _Costs(asr, data, out, codes)
    sampled = tested.part(_SAMPLE)
    dense = sampled.compared("the dense model, a sample", model, 0)
    scoring = len(tested.cuts) * dense.seconds / len(sampled.cuts)

    def ahead(plan: Plan) -> float:
        # What trains here has windows of its input's length from then on, where it had whole ones.
        short = _SHORT if asr.model.pads_to_window and plan.steps else 1.0
        scorings = 1 + short * (2 if plan.finetune else 1)
        return _FIXED + scorings * scoring + sum(part.seconds for part in costs.of(plan)) + costs.again(plan)

    def seconds(plan: Plan) -> float:
        rest = ahead(plan)  # which may measure something first
        return rest + time.monotonic() - began

    most = max(speech[language] for language in codes)
    plans = [plan.within(most) for plan in (OWN if isinstance(asr.model, Transducer) else HUB)]
    plan = choose(plans, seconds, budget)
    chosen = Chosen(
        model=str(model),
        data=given,
        named=tuple(sorted(languages)),
        languages=codes,
        target=target,
        budget=budget,
        finetune=plan.finetune,
        steps=plan.steps,
        refit=plan.refit,
        sparsity=plan.sparsity_for(target),
        dtype=DTYPES[target],
        precision=costs.precision,
        **(_expected(plan, costs, ahead(plan)) if plan.finetune else {}),
    )
    for line in _lines(chosen, plan, costs.of(plan), seconds(plan), dense):
        print(line, file=sys.stderr)
    if longer := plans[: plans.index(plan)]:
        more = longer[-1]
        what = "is trained longer" if plan.steps else "is trained, too"
        better = f"about {more.errors[0]:g} to {more.errors[1]:g} times the dense WER"
        longer_budget = f" of {duration(seconds(more))}" if budget else ""  # without one, no training was timed
        print(f"with a budget{longer_budget} it {what}: {better} then", file=sys.stderr)
    write_json(out / "plan.json", chosen.model_dump(mode="json"))
    return chosen


def _expected(plan: Plan, costs: _Costs, seconds: float) -> dict[str, float]:
    """What `Chosen.in_time` needs, of a plan that takes so many seconds from now on."""
    finetuning, pruning = costs.of(plan)
    shorter = costs.of(replace(plan, steps=1))[-1]
    return {
        "pace": finetuning.seconds / plan.finetune,
        "step": (pruning.seconds - shorter.seconds) / max(1, plan.steps - 1),
        "rest": seconds - finetuning.seconds,
    }


def _speech(data: Path) -> dict[str, float]:
    """{language: seconds of it to train on}."""
    found: dict[str, float] = defaultdict(float)
    for language, _, _, seconds in spoken_rows(data, "train"):
        found[language] += seconds
    return found


def _lines(chosen: Chosen, plan: Plan, parts: Sequence[Estimate], seconds: float, dense: System) -> list[str]:
    """The plan for people."""
    numbers = {"finetuning": chosen.finetune, "training of the pruned model": chosen.steps}
    steps = [f"{count:,} steps of {what}" for what, count in numbers.items() if count]
    refit = [f"refitting on {chosen.refit} batches a language"] if chosen.refit else []
    what = [*steps[:-1], *refit, *steps[-1:]] if steps else [*refit, "no training"]
    wer = dense.scored.mean_wer
    low, high = (percent(times * wer, 0) for times in plan.errors)
    disk, memory = max(part.disk for part in parts), max(part.memory for part in parts)
    lines = [
        f"plan: {chosen.sparsity:.0%} sparse in {', '.join(chosen.languages)}: {', '.join(what)}",
        f"time: about {duration(seconds)}; memory {size(memory)}; disk {size(disk)}",
        f"WER: {plan.errors[0]:g} to {plan.errors[1]:g} times the dense one's ({plan.basis}): about {low} to {high}%, "
        f"if that is {percent(wer, 0)}%, as on {sum(one.utterances for one in dense.scored.languages)} utterances",
    ]
    if 0 < chosen.budget < seconds:
        lines.append("that is more than the budget: nothing shorter is known to be of use")
    return lines


class _Costs:
    """Estimates of what plans take, by steps, forward passes and decoding of each kind of run, timed once."""

    def __init__(self, asr: AsrModel, data: Path, out: Path, languages: Sequence[str]) -> None:
        fast = fastest_device().type == "cuda" or multiplies_bfloat16()
        self.precision: Precision = "bf16-mixed" if fast else "32-true"
        card = asr.card.model_copy(update={"languages": tuple(languages)})
        self._asr, self._data, self._out, self._languages = (
            AsrModel(asr.model, asr.tokenizer, card),
            data,
            out,
            languages,
        )
        self._paces: dict[tuple[type[LoopConfig], bool], tuple[Pace, int, float]] = {}
        self._took: dict[tuple[type[LoopConfig], bool], float] = {}  # seconds to measure it

    def of(self, plan: Plan) -> list[Estimate]:
        """Of finetuning, if there is any, and of pruning."""
        return [self._of(recipe, plan.sparsity[0]) for recipe in self._recipes(plan)]

    def again(self, plan: Plan) -> float:
        """Seconds that its runs will take to time themselves once more, as they do when they begin."""
        return sum(self._took[_kind(recipe)] for recipe in self._recipes(plan))

    def _recipes(self, plan: Plan) -> list[LoopConfig]:
        recipes: list[LoopConfig] = [recipe_of(self._asr.model, plan.steps, plan.refit, self.precision)]
        if plan.finetune:
            recipes.insert(0, tuning_of(plan.finetune, self.precision))
        return recipes

    def _of(self, recipe: LoopConfig, sparsity: float) -> Estimate:
        masks = None
        if isinstance(recipe, PruneRecipe):
            masks = pathway_config(self._asr, default_method(self._asr.model), sparsity, self._languages, recipe)
        kind = _kind(recipe)
        if kind not in self._paces:
            began = time.monotonic()
            self._paces[kind] = self._measured(recipe, masks)
            self._took[kind] = time.monotonic() - began
        pace, dev, audio = self._paces[kind]
        return estimate(pace, recipe, len(self._languages), dev, masks, audio)

    def _measured(self, recipe: LoopConfig, masks: PathwayConfig | None) -> tuple[Pace, int, float]:
        """The pace of a run like that of ``recipe``, how many dev utterances it scores, and seconds of train audio."""
        kind = "finetuning" if masks is None else "training of a pruned model" if recipe.optimizer.steps else "pruning"
        print(f"{self._out}: timing {kind}", file=sys.stderr)
        fabric = launch(recipe)
        inputs = Inputs(Run(self._out, recipe, fabric), self._data, self._languages)
        dev = inputs.dev(self._asr)
        pace = measure(self._asr.model, inputs.sample(self._asr), recipe, middle(dev), fabric.autocast, masks)
        return pace, sum(map(len, dev)), inputs.seconds


def _kind(recipe: LoopConfig) -> tuple[type[LoopConfig], bool]:
    """Runs of one kind have one pace."""
    return type(recipe), recipe.optimizer.steps > 0


def recipe_of(model: SpeechModel, steps: int, refit: int, precision: Precision) -> PruneRecipe:
    """The recipe of pruning for a plan."""
    recipe = prune_recipe(model) if steps else oneshot_recipe(model)
    refitting = {"refit_batches": refit, "refit_steps": recipe.refit_steps if refit else 0}
    return _adjusted(recipe.model_copy(update=refitting), steps, precision)


def tuning_of(steps: int, precision: Precision) -> TrainRecipe:
    """The recipe of finetuning for a plan."""
    return _adjusted(finetune_recipe(), steps, precision)


def _adjusted(recipe: RecipeT, steps: int, precision: Precision) -> RecipeT:
    warmup = min(recipe.optimizer.warmup_steps, steps // 10)
    optimizer = recipe.optimizer.model_copy(update={"steps": steps, "warmup_steps": warmup})
    often = min(recipe.checkpoint_every, max(1, steps // _CHECKPOINTS))  # else a short run has none until its end
    values: dict[str, Any] = {"optimizer": optimizer, "precision": precision, "checkpoint_every": often}
    return recipe.model_copy(update=values)
