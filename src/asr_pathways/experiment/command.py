"""The command ``experiment``: plan, run, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.table import Table

from asr_pathways.console import make_console, print_table
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.significance import detectable
from asr_pathways.experiment.findings import Findings
from asr_pathways.experiment.ledger import read_entry
from asr_pathways.experiment.plan import Plan, make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.report.write import check_documents, write_results
from asr_pathways.experiment.runner import costs, ledger_folder, missing_cells, run_cells
from asr_pathways.formats import duration


def run_experiment(
    recipe: Path, out: Path | None, *, ray: str | None, source: Path | None, dry_run: bool, report: bool
) -> None:
    """Runs the cells of ``recipe`` that ``out`` has no results of, and writes the report of all that it has.

    The recipe's document and README are written only where ``out`` is ``results/NAME``: results
    elsewhere are a trial, and must not replace them.

    Args:
        recipe: the YAML file.
        out: the experiment's folder; None: ``results/NAME``.
        ray, source: of `run_cells`.
        dry_run: only print cells, costs and the differences that the design can show.
        report: only write the report.

    Raises:
        PathwaysError: if the recipe is wrong, or some cells failed; the report is written all the same.
    """
    home = Path("results") / recipe.stem
    plan, out = make_plan(ExperimentRecipe.read(recipe)), home if out is None else out
    if out.resolve() != home.resolve():
        plan = replace(plan, recipe=plan.recipe.model_copy(update={"document": None, "readme": None}))
    if dry_run:
        _show(plan, out)
        return
    command = f"asr-pathways experiment {recipe} --out {out} --report"
    run_plan(plan, out, command, ray=ray, source=source, report=report)


def run_plan(
    plan: Plan, out: Path, command: str, *, ray: str | None = None, source: Path | None = None, report: bool = False
) -> Findings:
    """Runs the cells that ``out`` has no results of, and writes the report, in which ``command`` is named.

    The rest is as in `run_experiment`.

    Raises:
        PathwaysError: if some cells failed; the report is written all the same.
    """
    check_documents(plan.recipe)  # not after hours
    failed = {} if report else run_cells(plan, out, ray=ray, source=source).failed
    findings = write_results(plan, out, command)
    make_console(stderr=True).print(f"report: {out / 'report.html'}", soft_wrap=True)
    if failed:
        name, why = next(iter(failed.items()))
        raise PathwaysError(
            f"{len(failed)} of {len(plan.cells)} cells failed, first {plan.cells[name].label}: {why} "
            f"(see {out / 'logs' / name}.log); the others are in {ledger_folder(out)}"
        )
    return findings


def _show(plan: Plan, out: Path) -> None:
    """Prints the plan: every cell with its state and expected time."""
    estimate = costs(plan, out, measured=True)
    table = Table("cell", "run", "steps", "steps with its masks'", "minutes", "state", title=plan.recipe.title)
    to_run = {cell.name for cell in missing_cells(plan, out)}
    expected = {name: estimate.seconds(plan.cells[name]) for name in to_run}
    for cell in plan.cells.values():
        done = read_entry(ledger_folder(out), cell.name) is not None
        state = "to run again: its model is needed" if done and cell.name in to_run else "done" if done else "to run"
        minutes = f"{expected.get(cell.name, estimate.done.get(cell.name, 0.0)) / 60:.1f}"
        table.add_row(cell.name, cell.label, f"{cell.steps:,}", f"{cell.total_steps:,}", minutes, state)
    print_table(table)
    console = make_console()
    how = "as timed here just now (by sizes where a model is not at hand)"
    left = f": about {duration(sum(expected.values()))} of one core, {how}" if to_run else ""
    took = "; minutes of cells that are done are what they took, here or elsewhere" if estimate.done else ""
    console.print(f"{len(to_run)} of {len(plan.cells)} cells to run{left}{took}", soft_wrap=True)
    for name, block in plan.recipe.blocks.items():
        if block.words:
            smallest = detectable(block.words, block.deviation)
            console.print(
                f"{name}: {len(block.seeds)} seeds, about {block.words:,} words: a difference in WER of "
                f"{100 * smallest:.2f} points is detected with 80% power, were words independent",
                soft_wrap=True,
            )
