"""Runs the cells of a plan that are not in the ledger yet: one after another, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.text import Text

from asr_pathways.console import make_console, text_column
from asr_pathways.data.progress import track
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.experiment.cells import cell_folder, model_digest, run_cell
from asr_pathways.experiment.corpora import data_folder, make_corpora
from asr_pathways.experiment.cost import Costs
from asr_pathways.experiment.ledger import read_entry, write_entry
from asr_pathways.experiment.paces import MeasuredPaces
from asr_pathways.experiment.plan import Cell, Plan
from asr_pathways.files import remove_leftovers
from asr_pathways.formats import duration
from asr_pathways.lock import alone_in

LOCAL = "local"
_DROPPED = ".checkpoints-done"
_BUSY = "another experiment is running there: wait for it, or run cells side by side with --ray local"


@dataclass
class Outcome:
    """Cells that ran now, and {cell: why it failed}; a cell that starts from a failed one fails with it."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def ledger_folder(root: Path) -> Path:
    """Where an experiment in ``root`` keeps its ledger."""
    return root / "ledger"


def missing_cells(plan: Plan, root: Path) -> list[Cell]:
    """The cells to run, parents first: those without a ledger entry, and the models that they start from."""
    wanted: set[str] = set()  # models that a cell to run starts from
    missing = []
    for cell in reversed(plan.cells.values()):
        folder = cell_folder(root, cell.name)
        trained = (folder / "config.json").exists() and not (folder / "checkpoints").exists()
        if read_entry(ledger_folder(root), cell.name) is None or (cell.name in wanted and not trained):
            missing.append(cell)
            wanted |= set(cell.parents)
    return missing[::-1]


def costs(plan: Plan, root: Path, *, measured: bool = False) -> Costs:
    """What is done, by the ledger, and estimates; ``measured``: by what is timed on this machine now."""
    paces = MeasuredPaces(plan, root)
    for cell in track(paces.one_of_each(missing_cells(plan, root)), "Timing each kind of cell") if measured else ():
        paces(cell)
    entries = {name: read_entry(ledger_folder(root), name) for name in plan.cells}
    done = {name: float(entry["cost"]["seconds"]) for name, entry in entries.items() if entry}
    return Costs(plan, root, done, paces if measured else None)


def run_cells(plan: Plan, root: Path, *, ray: str | None = None, source: Path | None = None) -> Outcome:
    """Runs what is missing, each cell when those that it starts from are done.

    A cell that fails is reported, those that need it are left out, and the rest go on.

    Args:
        plan: all cells.
        root: the experiment's folder: ``data/``, ``cells/``, ``logs/``, ``ledger/``.
        ray: None runs one cell after another here; ``local`` as many side by side as there are processors; an
            address a cluster's, whose machines all see ``root``.
        source: Debian packages of the prompts, where they are not to be fetched.

    Raises:
        PathwaysError: if a corpus cannot be made, Ray is not there, or another experiment is running in ``root``;
            `Interrupted` by Ctrl-C.
    """
    outcome = Outcome()
    with alone_in(root, _BUSY):
        _tidy(plan, root)
        cells = missing_cells(plan, root)
        make_corpora(root, plan, cells, source)
        _run(_Tasks(plan, root.absolute(), cells, outcome), root, ray)
    return outcome


def _run(tasks: _Tasks, root: Path, ray: str | None) -> None:
    outcome, board = tasks.outcome, _Board(tasks.plan, root, tasks.cells)
    with board.bar:
        for cell, entry in _one_by_one(tasks) if ray is None else _on_ray(tasks, ray):
            if isinstance(entry, str):
                outcome.failed[cell.name] = entry
            else:
                known = read_entry(ledger_folder(root), cell.name)
                if known is None:
                    write_entry(ledger_folder(root), cell.name, entry)
                elif known["digest"] != entry["digest"]:  # made again for its model only: the ledger stays
                    board.warn(f"{cell.label}: not the weights that the ledger has (another machine's arithmetic?)")
                _drop_checkpoints(cell_folder(root, cell.name))
                outcome.done.append(cell.name)
            board.show(cell, entry)


def _tidy(plan: Plan, root: Path) -> None:
    """Removes temporary files of killed runs, and checkpoints of cells whose models are in the ledger."""
    remove_leftovers(root / "data")
    remove_leftovers(ledger_folder(root))
    for name in plan.cells:
        folder = cell_folder(root, name)
        if not folder.exists():
            continue
        known = read_entry(ledger_folder(root), name)
        if (folder / "checkpoints").exists() and known is not None and known["digest"] == model_digest(folder):
            _drop_checkpoints(folder)
        shutil.rmtree(folder / _DROPPED, ignore_errors=True)


def _drop_checkpoints(folder: Path) -> None:
    """Removes what only resuming needs; a kill half-way leaves no folder that looks like a cell half-trained."""
    done = folder / _DROPPED
    shutil.rmtree(done, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (folder / "checkpoints").rename(done)
    shutil.rmtree(done, ignore_errors=True)


Result = tuple[Cell, "dict[str, Any] | str"]  # an entry, or why there is none


@dataclass(frozen=True)
class _Tasks:
    """The cells to run, parents first, and the outcome of those before."""

    plan: Plan
    root: Path
    cells: list[Cell]
    outcome: Outcome

    def broken(self, cell: Cell) -> str | None:
        """Why a cell cannot run: one that it starts from failed."""
        failed = next((parent for parent in cell.parents if parent in self.outcome.failed), None)
        return failed and f"starts from cell {failed}, which failed"

    def arguments(self, cell: Cell) -> tuple[Cell, Path, Path, bool]:
        data = data_folder(self.root, self.plan.recipe, cell.spec["data"])
        new = read_entry(ledger_folder(self.root), cell.name) is None
        return cell, self.root, data.absolute(), new


def _one_by_one(tasks: _Tasks) -> Iterator[Result]:
    for cell in tasks.cells:
        yield cell, tasks.broken(cell) or _run_logged(*tasks.arguments(cell))


def _on_ray(tasks: _Tasks, address: str) -> Iterator[Result]:
    try:
        import ray
    except ImportError:
        raise PathwaysError("--ray: Ray is not installed: pip install 'asr-pathways[cluster]'") from None
    if address == LOCAL:
        ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    else:
        ray.init(address=address, log_to_driver=False)
    names = {cell.name for cell in tasks.cells}
    order = TopologicalSorter({cell.name: names & {*cell.parents} for cell in tasks.cells})
    order.prepare()
    try:
        run = ray.remote(_run_logged)
        running: dict[Any, Cell] = {}
        while order.is_active():
            for cell in map(tasks.plan.cells.__getitem__, order.get_ready()):
                if broken := tasks.broken(cell):
                    yield cell, broken
                    order.done(cell.name)
                    continue
                threads = max(1, int(cell.spec["recipe"]["threads"]))
                running[run.options(num_cpus=threads, max_retries=0).remote(*tasks.arguments(cell))] = cell
            if running:
                (ended,), _ = ray.wait(list(running), num_returns=1)
                cell = running.pop(ended)
                yield cell, _result_of(ray, ended)
                order.done(cell.name)
    finally:
        ray.shutdown()


def _result_of(ray: Any, done: Any) -> dict[str, Any] | str:
    try:
        result: dict[str, Any] | str = ray.get(done)
    except ray.exceptions.RayError as error:  # a worker that died, or was killed for memory
        return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
    return result


def _run_logged(cell: Cell, root: Path, data: Path, test: bool) -> dict[str, Any] | str:
    """Runs a cell with its stderr in ``logs/``; its entry, or why it failed."""
    log = root / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream, contextlib.redirect_stderr(stream):
        print(f"--- {cell.label}", file=stream)
        try:
            return run_cell(cell, root, data, test=test)
        except Interrupted:
            raise
        except PathwaysError as error:
            return str(error)
        except Exception as error:  # one cell's bug must not end the others
            import traceback

            traceback.print_exc(file=stream)
            return f"{type(error).__name__}: {error} (see {log})"


class _Board:
    """Shows how far the experiment is: a bar with what is left, a line for each cell."""

    def __init__(self, plan: Plan, root: Path, cells: list[Cell]) -> None:
        self._costs = costs(plan, root)
        self._left = {cell.name: cell for cell in cells}
        self._total = len(cells)
        self._begun = {cell.name for cell in cells if cell_folder(root, cell.name).exists()}
        self._done: list[Cell] = []
        self._began = time.monotonic()
        console = make_console(stderr=True)
        self.bar = Progress(
            text_column("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            text_column("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("Cells", total=len(cells), left=self._time_left())
        if cells:
            many = f"{len(cells)} of {len(plan.cells)} cells to run"
            console.print(f"{many}, {self._time_left()}; logs: {root / 'logs'}", soft_wrap=True)

    def show(self, cell: Cell, entry: dict[str, Any] | str) -> None:
        """One more cell has ended."""
        del self._left[cell.name]
        if isinstance(entry, str):
            text = Text.assemble(("failed", "red"), f" {cell.label} ({cell.name}): {entry}")
        else:
            if cell.name not in self._begun:
                self._done.append(cell)
            elif not self._done:
                self._began = time.monotonic()  # what an earlier run had begun says nothing of the pace
            text = Text(f"{cell.label}: {_wer(entry)}{duration(float(entry['cost']['seconds']))}")
        self.bar.update(self._task, advance=1, left=self._time_left())
        ended = self._total - len(self._left)
        line = Text.assemble(f"{ended}/{self._total} ", text, f"; {self._time_left()}")
        self.bar.console.print(line, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.bar.console.print(Text.assemble(("warning", "yellow"), f" {text}"), soft_wrap=True)

    def _time_left(self) -> str:
        """By the pace of this run, with as many cells side by side."""
        estimated = sum(map(self._costs.seconds, self._left.values()))
        spent = sum(map(self._costs.seconds, self._done))
        pace = (time.monotonic() - self._began) / spent if spent else 1.0
        return f"about {duration(estimated * pace)} left"


def _wer(entry: dict[str, Any]) -> str:
    rates = [sum(one.word_errors) / sum(one.words) for one in entry["tested"].values()]
    return f"WER {100 * sum(rates) / len(rates):.1f}%, " if rates else ""
