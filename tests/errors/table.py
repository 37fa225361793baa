"""All rows, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Case
from tests.errors.of_data import AUDIO, FOLDERS, MANIFESTS, TEXT
from tests.errors.of_models import BUNDLES, CHECKPOINTS, MODELS, OPTIONS, RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"

CASES: dict[str, list[Case]] = {
    "Audio": AUDIO,
    "Texts": TEXT,
    "Manifests": MANIFESTS,
    "Data folders": FOLDERS,
    "Recipes": RECIPES,
    "Options": OPTIONS,
    "Checkpoints": CHECKPOINTS,
    "Models": MODELS,
    "Bundles": BUNDLES,
}

HEAD = """# What you see when something is wrong

Whatever a user can mend is one line on stderr, which says what and where, and exit status 1 (2 for options that do not
exist); nothing that was there is lost, and nothing half-done is left. `--debug` shows where in the code it came from.
Each row is a test (`tests/errors`); `...` stands for a number or a library's words. `dense` and `sparse` are model folders
of English and French, `sparse.asrp` is a bundle, `data` a data folder, `run` a run that was interrupted.

In training a broken utterance costs that utterance: the run tells of it, goes on, and lists all of them at its end and in
`left_out.json`; with more than `data.max_left_out` of them (100) it ends. In `evaluate` it is an error, since scores
without it would be of another test.
"""


def page() -> str:
    """The page, made of all rows."""
    parts = [HEAD]
    for kind, cases in CASES.items():
        rows = [f"| {case.about} | `{_short(case.command)}` | {_shown(case)} |" for case in cases]
        parts += ["", f"## {kind}", "", "| What is wrong | Command | What you see |", "|---|---|---|", *rows]
    return "\n".join(parts) + "\n"


def _short(command: str) -> str:
    """Without what is the same in all commands of its kind."""
    return command.removesuffix(" --config recipe.yaml").replace(" --config recipe.yaml", "")


def _shown(case: Case) -> str:
    if not case.says:
        return "nothing: it works"
    return f"`{case.says}`"
