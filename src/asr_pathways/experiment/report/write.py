"""Turns the ledger into documents: a Markdown file with its charts, a web page, plain data, a table for the README."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.findings import Findings, as_json, gather
from asr_pathways.experiment.plan import Plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.report.charts import Chart
from asr_pathways.experiment.report.html import page
from asr_pathways.experiment.report.markdown import escape
from asr_pathways.experiment.report.sections import main_table, report
from asr_pathways.files import read_text, write_text

COMMAND = "asr-pathways experiment RECIPE --out DIR --report"
_START, _END = "<!-- results -->", "<!-- /results -->"


def write_results(plan: Plan, root: Path, command: str = COMMAND) -> Findings:
    """Writes what the ledger in ``root`` holds of ``plan``, whether or not it is complete.

    - the recipe's ``document`` (or ``root/results.md``) with its charts in a folder of its name beside it, where
      charts that are drawn no more are removed;
    - ``root/report.html``, the same as one page that needs no other file, and ``root/results.json``, its numbers;
    - the table between the marks of the recipe's ``readme``.

    The same ledger and recipe produce the same bytes. Paths of the recipe are relative to the working directory.

    Args:
        plan: of the recipe.
        root: the experiment's folder, with ``ledger/``.
        command: what makes all this, as the documents name it.

    Raises:
        PathwaysError: if an entry is damaged, the discussion or the README's marks are missing, or a file cannot be
            written.
    """
    recipe = plan.recipe
    check_documents(recipe)  # before anything is written
    findings = gather(plan, root / "ledger")
    document = root / "results.md" if recipe.document is None else recipe.document
    folder = document.with_suffix("")
    discussion = None if recipe.discussion is None else read_text(recipe.discussion)
    texts, pictures = [], {}
    for part in report(findings, discussion, command):
        if isinstance(part, Chart):
            path = f"{folder.name}/{part.name}.svg"
            pictures[path] = part.svg
            texts.append(f"![{escape(part.description)}]({path})\n\n{escape(part.caption)}")
        else:
            texts.append(part)
    markdown = "\n\n".join(texts) + "\n"
    for path, svg in pictures.items():
        write_text(document.parent / path, svg)
    for old in {*folder.glob("*.svg")} - {document.parent / path for path in pictures}:
        old.unlink()
    write_text(document, markdown)
    write_text(root / "report.html", page(recipe.title, markdown, pictures))
    write_text(root / "results.json", json.dumps(as_json(findings), indent=1, ensure_ascii=False) + "\n")
    if recipe.readme is not None:
        assert recipe.main is not None  # a recipe with a README has a main block
        link = Path(os.path.relpath(document, recipe.readme.parent)).as_posix()
        shown = main_table(findings.blocks[recipe.main])
        made = f"Made by `{command}`; comparisons, significance and figures: [{link}]({link})."
        before, after = _halves(recipe.readme)
        write_text(recipe.readme, f"{before}\n\n{shown}\n\n{made}\n\n{after}")
    return findings


def check_documents(recipe: ExperimentRecipe) -> None:
    """Whether the files that people write are as the report needs them.

    Raises:
        PathwaysError: if the discussion cannot be read, or the README or its marks are missing.
    """
    if recipe.discussion is not None:
        read_text(recipe.discussion)
    if recipe.readme is not None:
        _halves(recipe.readme)


def _halves(path: Path) -> tuple[str, str]:
    """The text before and after the place of the table, marks included."""
    match = re.fullmatch(rf"([\s\S]*?{re.escape(_START)})[\s\S]*?({re.escape(_END)}[\s\S]*)", read_text(path))
    if match is None:
        raise PathwaysError(
            f"{path}: no place for the results: write the lines {_START} and {_END} where they are to go"
        )
    return match[1], match[2]
