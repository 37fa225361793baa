from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from asr_pathways.cli.main import app
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment import command
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.runner import Outcome

RUN = CliRunner()


def test_a_dry_run_lists_cells_and_power_and_runs_nothing(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = RUN.invoke(app, ["experiment", str(recipe_file), "--out", str(out), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "sines / dynamic, adapt_every 2 / en fr / seed 0" in result.stdout
    assert "12 of 12 cells to run: about" in result.stdout and "timed here just now" in result.stdout
    assert (
        "sines: 2 seeds, about 50 words: a difference in WER of 19.81 points is detected with 80% power"
        in result.stdout
    )
    assert not out.exists()


def test_a_report_needs_no_cell_but_what_people_write(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert RUN.invoke(app, ["experiment", str(recipe_file), "--out", str(out), "--report"]).exit_code == 0
    assert "12 of 12 cells have no result yet" in (out / "results.md").read_text()
    recipe_file.write_text(recipe_file.read_text() + f"discussion: {tmp_path / 'none.md'}\n")
    for flags in ([], ["--report"]):
        result = RUN.invoke(app, ["experiment", str(recipe_file), "--out", str(out), *flags])
        assert isinstance(result.exception, PathwaysError) and "none.md" in str(result.exception)
    assert not (out / "cells").exists()


def test_a_trial_elsewhere_leaves_the_documents_alone(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readme = Path("README.md")
    readme.write_text("<!-- results -->old<!-- /results -->")
    recipe_file.write_text(recipe_file.read_text() + "readme: README.md\nmain: sines\ndocument: docs/found.md\n")
    assert RUN.invoke(app, ["experiment", str(recipe_file), "--out", "trial", "--report"]).exit_code == 0
    assert Path("trial/results.md").exists() and not Path("docs").exists() and "old" in readme.read_text()
    assert RUN.invoke(app, ["experiment", str(recipe_file), "--report"]).exit_code == 0
    assert Path("docs/found.md").exists() and "old" not in readme.read_text()


def test_a_failed_cell_is_named_with_its_log_and_the_report_is_written(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(make_plan(ExperimentRecipe.read(recipe_file)).cells))
    monkeypatch.setattr(command, "run_cells", lambda *_, **__: Outcome(failed={name: "loss is NaN"}))
    result = RUN.invoke(app, ["experiment", str(recipe_file), "--out", str(tmp_path)])
    assert isinstance(result.exception, PathwaysError) and (tmp_path / "report.html").exists()
    said = str(result.exception)
    assert (
        "1 of 12 cells failed, first sines / dense" in said and f"loss is NaN (see {tmp_path}/logs/{name}.log)" in said
    )


@pytest.mark.parametrize("flags", [["--dry-run", "--report"], []])
def test_misuse(flags: list[str], tmp_path: Path) -> None:
    result = RUN.invoke(app, ["experiment", *([str(tmp_path / "x.yaml")] if flags else []), *flags])
    assert result.exit_code == 2
