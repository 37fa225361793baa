"""Turns the ledger into documents: a page, a Markdown file with its figures, plain data, and a table for the README."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.document import Picture, Table, markdown, markdown_table, standalone
from asr_pathways.experiment.findings import Findings, as_json, gather
from asr_pathways.experiment.page import page
from asr_pathways.experiment.plan import Plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.report import main_table, report
from asr_pathways.files import atomic_path

COMMAND = "asr-pathways experiment RECIPE --out DIR --report"
_START, _END = "<!-- results -->", "<!-- /results -->"


def write_results(plan: Plan, root: Path, command: str = COMMAND) -> None:
    """Writes what the ledger in ``root`` tells about ``plan``, whether or not it is complete.

    - ``root/report.html``, which needs no other file, and ``root/results.json`` with every number of the tables;
    - the recipe's ``document`` (or ``root/results.md``) with its figures in a folder of its name beside it, where
      figures that are drawn no more are removed;
    - the table between the marks of the recipe's ``readme``.

    The same ledger and recipe give the same bytes. Paths of the recipe are relative to the working directory.

    Args:
        plan: of the recipe.
        root: the experiment's folder, with ``ledger/``.
        command: what makes all this, as the documents name it.

    Raises:
        PathwaysError: if an entry is damaged, the discussion or the README's marks are missing, or a file cannot be
            written.
    """
    recipe = plan.recipe
    # What may be wrong with people's files is found before anything is written.
    discussion = None if recipe.discussion is None else _read(recipe.discussion)
    readme = None if recipe.readme is None else _halves(recipe.readme)
    findings = gather(plan, root / "ledger")
    parts = list(report(findings, discussion, command))
    document = root / "results.md" if recipe.document is None else recipe.document
    _write_figures(document.with_suffix(""), [part for part in parts if isinstance(part, Picture)])
    _write(document, markdown(parts, document.stem))
    _write(root / "report.html", page(recipe.title, parts))
    _write(root / "results.json", json.dumps(as_json(findings), indent=1, ensure_ascii=False) + "\n")
    if recipe.readme is not None and readme is not None:
        before, after = readme
        _write(recipe.readme, before + _excerpt(findings, document, recipe.readme, command) + after)


def check_documents(recipe: ExperimentRecipe) -> None:
    """Whether the files that people write are as the report needs them.

    Raises:
        PathwaysError: if the discussion cannot be read, or the README or its marks are missing.
    """
    if recipe.discussion is not None:
        _read(recipe.discussion)
    if recipe.readme is not None:
        _halves(recipe.readme)


def _write_figures(folder: Path, pictures: Sequence[Picture]) -> None:
    figures = {folder / f"{picture.name}.svg": standalone(picture.svg) for picture in pictures}
    for path, svg in figures.items():
        _write(path, svg)
    for path in {*folder.glob("*.svg")} - {*figures}:
        path.unlink()


def _excerpt(findings: Findings, document: Path, readme: Path, command: str) -> str:
    """The main table in Markdown, the command that makes it, and where the rest is."""
    assert findings.recipe.main is not None  # a recipe with a README has a main block
    table: Table = main_table(findings.blocks[findings.recipe.main])
    shown = markdown_table(table) if table.rows else "No results yet."
    link = Path(os.path.relpath(document, readme.parent)).as_posix()
    return f"\n\n{shown}\n\nMade by `{command}`; comparisons, significance and figures: [{link}]({link}).\n\n"


def _halves(path: Path) -> tuple[str, str]:
    """What stands before and after the place of the table, marks included."""
    text = _read(path)
    match = re.fullmatch(rf"([\s\S]*?{re.escape(_START)})[\s\S]*?({re.escape(_END)}[\s\S]*)", text)
    if match is None:
        raise PathwaysError(
            f"{path}: no place for the results: write the lines {_START} and {_END} where they are to go"
        )
    return match[1], match[2]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PathwaysError(f"{path}: not UTF-8 text") from None


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
