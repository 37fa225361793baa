from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_pathways.bundle.load import load_model
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.experiment import cells, ledger, runner
from asr_pathways.experiment.plan import Plan, make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.runner import _drop_checkpoints, ledger_folder, missing_cells, run_cells
from asr_pathways.formats import duration
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.state import last_checkpoint
from tests import warm
from tests.experiment.conftest import as_data
from tests.experiment.example import planned


@pytest.fixture(scope="module")
def plan(sines: Path, dense_model: Path) -> Plan:
    return make_plan(ExperimentRecipe.model_validate(as_data(sines, dense_model)))


def part(sines: Path, dense_model: Path, *systems: str) -> Plan:
    """The cells of one seed of some systems, by the same names."""
    data = as_data(sines, dense_model)
    block = data["blocks"]["sines"]
    block["systems"]["dynamic"]["vary"] = {"adapt_every": [1]}
    block |= {"systems": {name: block["systems"][name] for name in systems}, "seeds": [0], "compare": []}
    return make_plan(ExperimentRecipe.model_validate(data))


@pytest.fixture(scope="module")
def few(sines: Path, dense_model: Path) -> Plan:
    """A dense cell, one of masks for each language that starts from it, and one that starts from the three."""
    plan = part(sines, dense_model, "dense", "IMP", "fixed")
    assert len(plan.cells) == 4
    return plan


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that ran without a break; tests must not change it."""
    root = tmp_path_factory.mktemp("whole")
    outcome = run_cells(plan, root)
    assert outcome.failed == {} and outcome.done == list(plan.cells)
    return root


def results(root: Path) -> dict[str, Any]:
    """All that a ledger says, but for the time that it took."""
    found = {}
    for path in sorted(ledger_folder(root).glob("*.json")):
        entry = json.loads(path.read_text())
        del entry["cost"]
        found[path.stem] = entry
    return found


def results_of(plan: Plan, whole: Path) -> dict[str, Any]:
    """What the ledger of the whole says of the cells of a part."""
    return {name: entry for name, entry in results(whole).items() if name in plan.cells}


def test_every_cell_has_an_entry_and_a_model(plan: Plan, whole: Path) -> None:
    assert set(results(whole)) == set(plan.cells)
    tested: dict[str, set[str]] = {"en": set(), "fr": set()}
    for name, cell in plan.cells.items():
        entry = ledger.read_entry(ledger_folder(whole), name)
        assert entry is not None
        asr = load_model(whole / "cells" / name)
        assert tuple(entry["tested"]) == asr.languages == tuple(cell.spec["languages"])
        for language, counts in ledger.tested(entry).items():
            tested[language].add(counts.utterances)
            assert sum(counts.words) > 0 and counts.loss > 0
        if cell.spec["kind"] == "prune":
            assert asr.pathways is not None
            assert asr.pathways.summary().sparsity == pytest.approx(dict.fromkeys(asr.languages, 0.5))
            assert entry["masks"]["sparsity"] == pytest.approx(asr.pathways.summary().sparsity, abs=1e-6)
        assert not (whole / "cells" / name / "checkpoints").exists()
    assert all(len(folds) == 2 for folds in tested.values())  # each fold has its own utterances
    dynamic = results(whole)[plan.row("sines", "dynamic, adapt_every 1").runs[0].cell]
    assert [event["kind"] for event in dynamic["events"]] == ["adapt"] * 4


def test_fixed_masks_are_those_of_the_runs_that_made_them(plan: Plan, whole: Path) -> None:
    run = plan.row("sines", "fixed").runs[0]
    fixed = load_model(whole / "cells" / run.cell).pathways
    assert fixed is not None
    for other in plan.row("sines", "IMP").runs[:2]:
        (language,) = other.languages
        made = load_model(whole / "cells" / other.cell).pathways
        assert made is not None
        for name, mask in made.mask(language).items():
            assert mask.equal(fixed.mask(language)[name])


def test_nothing_runs_twice(plan: Plan, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runner, "run_cell", never)
    assert run_cells(plan, whole).done == []


def test_models_that_are_gone_are_made_again_only_where_needed(
    plan: Plan, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ledger_folder(whole), ledger_folder(tmp_path))
    assert missing_cells(plan, tmp_path) == []  # a ledger alone is enough where nothing new is to run
    run = plan.row("sines", "fixed").runs[0]
    (ledger_folder(tmp_path) / f"{run.cell}.json").unlink()
    masks = [other.cell for other in plan.row("sines", "IMP").runs if other.seed == run.seed]
    again = [cell.name for cell in missing_cells(plan, tmp_path)]
    assert set(again) == {run.cell, *masks, *plan.cells[run.cell].parents}
    tested = []
    decode = cells.decode_cuts
    monkeypatch.setattr(
        cells, "decode_cuts", lambda *given, **options: (tested.append(1), decode(*given, **options))[1]
    )
    run_cells(plan, tmp_path)
    assert results(tmp_path) == results(whole)
    assert len(tested) == len(run.languages)  # what the ledger knows is not tested again


def test_two_runs_in_one_folder_are_refused(plan: Plan, whole: Path) -> None:
    with (whole / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PathwaysError, match="another experiment is running there"):
            run_cells(plan, whole)
    assert run_cells(plan, whole).done == []


def test_what_was_reported_stays_when_a_model_comes_out_otherwise(
    plan: Plan, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ledger_folder(whole), ledger_folder(tmp_path))
    run = plan.row("sines", "fixed").runs[0]
    (ledger_folder(tmp_path) / f"{run.cell}.json").unlink()
    mask = next(other.cell for other in plan.row("sines", "IMP").runs if other.seed == run.seed)
    path = ledger_folder(tmp_path) / f"{mask}.json"
    path.write_text(path.read_text().replace('"digest": "', '"digest": "other-'))
    run_cells(plan, tmp_path)
    assert results(tmp_path)[mask]["digest"].startswith("other-")
    err = capsys.readouterr().err
    assert err.count("not the weights that the ledger has") == 1 and plan.cells[mask].label in err


def run_and_die(plan: Plan, root: Path, cell: str, step: int) -> None:
    """Runs the cells until kill -9 comes in the middle of one."""
    torch.set_num_threads(1)
    plain = TrainingLoop._step

    def stepping(loop: TrainingLoop, *arguments: Any) -> None:
        if (loop.out.name, loop.state.step) == (cell, step):
            os.kill(os.getpid(), signal.SIGKILL)
        plain(loop, *arguments)

    TrainingLoop._step = stepping  # type: ignore[method-assign]
    run_cells(plan, root)


def test_a_killed_experiment_ends_with_the_same_ledger(
    whole: Path, sines: Path, dense_model: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle of a cell that trains and of one that prunes; bit-equal masks and errors in the end."""
    plan = part(sines, dense_model, "dense", "dynamic")
    dense, dynamic = plan.cells
    for cell, step in ((dense, 1), (dynamic, 2)):
        process = warm.context().Process(target=run_and_die, args=(plan, tmp_path, cell, step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert last_checkpoint(tmp_path / "cells" / cell).exists()
    assert [path.stem for path in ledger_folder(tmp_path).glob("*.json")] == [dense]
    assert run_cells(plan, tmp_path).done == [dynamic]
    assert results(tmp_path) == results_of(plan, whole)


def test_a_failed_cell_is_told_and_the_rest_go_on(
    few: Plan, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = few.row("sines", "IMP").runs[0].cell
    run_cell = runner.run_cell

    def fragile(cell: Any, root: Path, data: Path, *, test: bool) -> dict[str, Any]:
        if cell.name == bad:
            raise RuntimeError("out of luck")
        return run_cell(cell, root, data, test=test)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_cell", fragile)
        outcome = run_cells(few, tmp_path)
    needs = few.row("sines", "fixed").runs[0].cell
    assert outcome.failed.keys() == {bad, needs}
    assert outcome.failed[bad].startswith("RuntimeError: out of luck (see ")
    assert outcome.failed[needs] == f"starts from cell {bad}, which failed"
    assert "out of luck" in (tmp_path / "logs" / f"{bad}.log").read_text()
    assert "failed" in capsys.readouterr().err
    assert len(outcome.done) == len(few.cells) - 2
    assert set(run_cells(few, tmp_path).done) == {bad, needs}
    assert results(tmp_path) == results_of(few, whole)


def test_an_interrupt_ends_the_experiment(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Interrupted("interrupted at step 1 of 2")

    monkeypatch.setattr(runner, "run_cell", stop)
    with pytest.raises(Interrupted):
        run_cells(plan, tmp_path)
    assert not ledger_folder(tmp_path).exists()


def test_ray_gives_the_same_ledger(few: Plan, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    outcome = run_cells(few, tmp_path, ray="local")
    assert outcome.failed == {} and set(outcome.done) == set(few.cells)
    assert results(tmp_path) == results_of(few, whole)


def test_without_ray_it_is_told_what_to_install(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PathwaysError, match=r"pip install 'asr-pathways\[cluster\]'"):
        run_cells(plan, tmp_path, ray="local")


def test_what_kills_left_beside_results_goes(plan: Plan, whole: Path) -> None:
    """Between the entry of a cell and the end of its checkpoints, and in the middle of a file."""
    cell = whole / "cells" / next(iter(plan.cells))
    left = [cell / "checkpoints" / "last.pt", cell / ".checkpoints-done" / "last.pt"]
    left += [ledger_folder(whole) / ".cell.tmp-a1b2c3d4.json", whole / "data" / ".fold.tmp-a1b2c3d4" / "corpus.json"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    assert run_cells(plan, whole).done == []
    assert not any(path.parent.exists() for path in (left[0], left[1], left[3])) and not left[2].exists()
    assert not (whole / ".lock").exists()


def test_an_experiment_says_first_what_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned()
    rest = list(plan.cells.values())[1:]
    estimate = duration(sum(map(runner.costs(plan, tmp_path).seconds, rest)))
    runner._Board(plan, tmp_path, rest)
    said = f"{len(rest)} of {len(plan.cells)} cells to run, about {estimate} left; logs: {tmp_path / 'logs'}\n"
    assert capsys.readouterr().err == said
    runner._Board(plan, tmp_path, [])
    assert capsys.readouterr().err == ""


def test_checkpoints_are_dropped_in_one_step_over_what_a_kill_left(tmp_path: Path) -> None:
    for name in ("checkpoints", ".checkpoints-done"):
        (tmp_path / name / "start").mkdir(parents=True)
    _drop_checkpoints(tmp_path)
    _drop_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_went_on_says_nothing_of_the_time_left(
    few: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock)
    first, second, *others = few.cells.values()
    cells.cell_folder(tmp_path, first.name).mkdir(parents=True)
    board = runner._Board(few, tmp_path, list(few.cells.values()))
    expected = {cell.name: board._costs.seconds(cell) for cell in few.cells.values()}
    clock = 1.0  # its last steps
    board.show(first, {"cost": {"seconds": 1000}, "tested": {}})
    assert board._time_left() == f"about {runner.duration(sum(expected[c.name] for c in (second, *others)))} left"
    clock += 2 * expected[second.name]
    board.show(second, {"cost": {"seconds": clock}, "tested": {}})
    assert board._time_left() == f"about {runner.duration(2 * sum(expected[c.name] for c in others))} left"
