"""What a language costs that is added later, against pathways that were pruned for all languages together.

python -m benchmarks.add_language models/tiny data/prompts it --out runs/add-it

The held-out language is left out when the model is pruned, not when its dense model was trained. It then gets as many
steps as it had of the joint run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_pathways.bundle.load import load_model
from asr_pathways.evaluation.significance import Bootstrap, UtteranceCounts
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.model_folder.decode import decode_split
from asr_pathways.training.add_language import add_language
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.prune import prune

RECIPE: dict[str, Any] = {
    "optimizer": {"steps": 0, "peak_lr": 5.0e-4, "final_lr": 2.0e-5, "warmup_steps": 20},
    "data": {"max_seconds": 40, "temperature": 5, "speed_factors": [1.0]},
    "evaluation": {"every": 150, "utterances": 20, "keep_best": 1, "choose": "last"},
    "checkpoint_every": 300,
    "threads": 1,
}


def measure(model: Path, data: Path, language: str, out: Path, steps: int, reuse: Sequence[float]) -> dict[str, object]:
    """WER of the held-out language: pruned together with the others, or added for each value of ``reuse``."""
    recipe = PruneRecipe.model_validate(RECIPE)
    languages = load_model(model).languages
    others = tuple(code for code in languages if code != language)
    sparse: dict[str, Any] = {"method": "dynamic", "sparsity": 0.7}
    prune(model, data, out / "joint", recipe=recipe.with_steps(steps * len(languages)), languages=languages, **sparse)
    without = out / "without"
    prune(model, data, without, recipe=recipe.with_steps(steps * len(others)), languages=others, **sparse)
    joint = _heard(out / "joint", data, [language])
    before = _heard(without, data, others)
    rows = [_row("joint", joint, joint)]
    same = []
    for value in reuse:
        folder = out / f"added-{value:g}"
        add_language(without, data, folder, language=language, recipe=recipe.with_steps(steps), reuse=value)
        rows.append({"reuse": value, **_row("added", _heard(folder, data, [language]), joint)})
        same.append(_heard(folder, data, others) == before)
    return {
        "model": str(model),
        "language": language,
        "steps_of_it": steps,
        "sparsity": sparse["sparsity"],
        "systems": rows,
        "others_write_the_same": all(same),
    }


def _heard(folder: Path, data: Path, languages: Sequence[str]) -> list[Utterance]:
    return decode_split(load_model(folder), data, "test", languages)


def _row(name: str, heard: list[Utterance], joint: list[Utterance]) -> dict[str, object]:
    (found,) = score(heard).languages
    runs = {
        name: {0: {found.language: UtteranceCounts.of(system, math.nan)}}
        for name, system in (("it", heard), ("joint", joint))
    }
    pair = Bootstrap(runs).compare("it", "joint")
    assert pair is not None  # both have seed 0
    return {
        "system": name,
        "words": found.words,
        "wer": round(found.wer.rate, 4),
        "wer_ci": [round(end, 4) for end in found.wer_ci],
        "cer": round(found.cer.rate, 4),
        "minus_joint": round(pair.wer.points, 4),
        "minus_joint_ci": [round(end, 4) for end in pair.wer.ci],
    }


def run(
    model: Annotated[Path, typer.Argument()],
    data: Annotated[Path, typer.Argument()],
    language: Annotated[str, typer.Argument()],
    out: Path = Path("runs/add-language"),
    steps: int = 60,
) -> None:
    """Prints WERs and their paired differences as JSON."""
    typer.echo(json.dumps(measure(model, data, language, out, steps, (1.0, 0.5, 0.0)), indent=1))


if __name__ == "__main__":
    typer.run(run)
