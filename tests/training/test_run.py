"""One rule says for all commands when a run begins, goes on, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.training.run import open_run
from asr_pathways.training.state import TrainingState, last_checkpoint, write_checkpoint
from tests.conftest import make_model
from tests.training.helpers import loop_config


@pytest.fixture
def opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[bool], tuple[bool, str]]:
    """Whether the run there resumes, and what is said of it."""

    def opened(resume: bool) -> tuple[bool, str]:
        with open_run(tmp_path, loop_config(1), resume) as run:
            return run.resumes, capsys.readouterr().err

    return opened


def test_a_run_begins_goes_on_or_is_refused(
    opened: Callable[[bool], tuple[bool, str]], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    begins = (False, f"{tmp_path}: no run to resume there: it begins now\n")
    assert opened(False) == (False, "") and opened(True) == begins
    with open_run(tmp_path, loop_config(1), False) as run:
        run.save_start(make_model(tokenizer))
    assert opened(True) == begins  # it was killed before its first checkpoint
    with pytest.raises(PathwaysError, match="holds a run already: go on with --resume, or choose another folder"):
        opened(False)
    write_checkpoint(last_checkpoint(tmp_path), TrainingState(1), {})
    assert opened(True) == (True, "")
    with pytest.raises(PathwaysError, match="holds a run already"):
        opened(False)


def test_a_run_is_alone_in_its_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, loop_config(1), False),
        pytest.raises(PathwaysError, match="another run is training there"),
        open_run(tmp_path, loop_config(1), True),
    ):
        pass
    assert not list(tmp_path.iterdir())
