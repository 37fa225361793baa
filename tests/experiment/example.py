"""A recipe of two blocks and a ledger for it, filled by hand: some rows complete, some partly, some not at all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from asr_pathways.evaluation.significance import UtteranceCounts
from asr_pathways.experiment.ledger import write_entry
from asr_pathways.experiment.plan import Cell, Plan, make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe

LANGUAGES = ("en", "fr")
TENSORS = (
    "encoder.front_end.projection.weight",
    "encoder.layers.0.attention.query.weight",
    "encoder.layers.0.feed_forward.1.weight",
    "encoder.layers.1.conv.out.weight",
    "predictor.lstm.weight_ih_l0",
)
# How many words of a hundred each system gets wrong.
WRONG = {"dense": 10, "imp": 30, "adaptive": 20, "lth": 35, "pathways": 22, "dynamic": 14, "parp": 40}
PARTLY = ("folds / LTH / fr / seed 1", "folds / fixed / en fr / seed 1")
NOT_AT_ALL = ("folds / PARP", "plain / never run")


def as_data(**changes: Any) -> dict[str, Any]:
    """The recipe, as YAML would give it."""
    training = {"evaluation": {"every": 50, "choose": "last"}, "threads": 1}
    model = {"recipe": {"model": {"preset": "micro", "vocab_size": 64}, "optimizer": {"steps": 10}, **training}}
    pruning = {"optimizer": {"steps": 0}, **training}
    each = {"languages": "each", "table": "A", "steps": 20}
    return {
        "title": "Masks & <measures>",
        "data": {"prompts": {"kind": "prompts", "languages": list(LANGUAGES)}},
        "models": {"scratch": {"data": "prompts", **model}},
        "blocks": {
            "folds": {
                "about": "Two folds.",
                "data": "prompts",
                "folds": 2,
                "seeds": [0, 1],
                "dense": {"model": "scratch", "finetune": {"optimizer": {"steps": 5}, **training}},
                "recipe": pruning,
                "words": 400,
                "deviation": 0.5,
                "systems": {
                    "dense": {"method": "dense", "table": "B"},
                    "IMP": {"method": "imp", **each, "note": "iterative"},
                    "adaptive": {"method": "adaptive", **each},
                    "LTH": {"method": "lth", **each},
                    "PARP": {"method": "parp", **each},
                    "helper": {"method": "imp", "table": "", "steps": 10},
                    "fixed": {"method": "pathways", "table": "B", "steps": 100, "init": "IMP"},
                    "dynamic": {"method": "dynamic", "table": "B", "steps": 100, "init": "helper"},
                },
                "compare": [["adaptive", "IMP"], ["dynamic", "fixed"], ["adaptive", "PARP"]],
            },
            "plain": {
                "about": "One test for all seeds.",
                "data": "prompts",
                "seeds": [0, 1],
                "dense": {"model": "scratch"},
                "recipe": pruning,
                "systems": {
                    "dense": {"method": "dense", "table": "B"},
                    "grown": {
                        "method": "dynamic",
                        "table": "Sparsity",
                        "steps": 100,
                        "vary": {"sparsity": [0.5, 0.9], "adapt_every": [5, None]},
                    },
                    "never run": {"method": "imp", "table": "Sparsity", "steps": 100, "seeds": [1]},
                },
            },
        },
        "claims": [
            {"says": "Adapting beats IMP", "block": "folds", "better": "adaptive", "than": "IMP"},
            {"says": "Stages beat adapting", "block": "folds", "better": "IMP", "than": "adaptive"},
            {"says": "Fixed beats dense", "block": "folds", "better": "fixed", "than": "PARP"},
        ],
        **changes,
    }


def planned(**changes: Any) -> Plan:
    return make_plan(ExperimentRecipe.model_validate(as_data(**changes)))


def fill(plan: Plan, root: Path) -> None:
    """Writes the ledger under ``root``."""
    for cell in plan.cells.values():
        if cell.label not in PARTLY and not cell.label.startswith((*NOT_AT_ALL, "model")):
            write_entry(root / "ledger", cell.name, entry_of(cell))


def entry_of(cell: Cell) -> dict[str, Any]:
    """What a cell might have left behind."""
    languages, method = tuple(cell.spec["languages"]), cell.spec.get("method", "dense")
    fold = cell.spec["data"].get("fold", 0)
    sparsity = cell.spec.get("sparsity", 0.0)
    shares = {language: dict.fromkeys(TENSORS, sparsity) for language in languages}
    masks = {
        "weights": 1000,
        "sparsity": dict.fromkeys(languages, sparsity),
        "union_density": 0.4,
        "mean_iou": 0.75 if len(languages) > 1 else None,
        "overlap": {"en fr": 0.75} if len(languages) > 1 else {},
    }
    own = {"language": "en"} if method == "dynamic" else {}
    events = [
        {"kind": "adapt", **own, "step": step, "sparsity": sparsity, "changed": 1 / step, "score": "activation"}
        for step in (10, 20, 30)
    ]
    return {
        "label": cell.label,
        "spec": cell.spec,
        "tested": {language: counts(language, fold, WRONG[method] / 100, cell.name) for language in languages},
        "samples": {language: sample(language, method) for language in languages},
        "sources": ["Prompts by somebody (CC0)"],
        "size": {"weights": 2000, "bytes": 8000, "mask_bytes": 250 if sparsity else 0},
        "history": [
            {"step": step, "mean_wer": 0.5 - step / 400 + fold / 10, "wer": {}, **({"sparsity": sparsity})}
            for step in ([50, 100] if cell.steps > 5 else [0])
        ],
        "masks": {**masks, "tensors": shares, "union": dict.fromkeys(TENSORS, 0.4)} if sparsity else None,
        "first_masks": masks if sparsity else None,
        "events": events if method in ("dynamic", "adaptive") else [],
        "digest": "0",
        "total_steps": cell.total_steps,
        "cost": {"training_seconds": random.random(), "seconds": random.random()},
    }


def sample(language: str, method: str) -> dict[str, str]:
    """One utterance and what a system makes of it: dynamic gets two words wrong."""
    hypothesis = "one tow three five_six" if method == "dynamic" else "one two three four"
    return {"id": f"{language}-1", "language": language, "reference": "one two three four", "hypothesis": hypothesis}


def counts(language: str, fold: int, rate: float, name: str, utterances: int = 40) -> UtteranceCounts:
    """Counts of 1 to 9 words an utterance, each wrong with probability ``rate``; a fold has its own utterances."""
    texts, noise = random.Random(f"{language} {fold}"), random.Random(name + language)
    words = [texts.randint(1, 9) for _ in range(utterances)]
    errors = [sum(noise.random() < rate for _ in range(count)) for count in words]
    letters = [5 * count for count in words]
    return UtteranceCounts(f"{language}{fold}", words, errors, letters, [3 * count for count in errors], 0.5 + rate)
