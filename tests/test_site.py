"""The documentation builds as a site: no link leads nowhere, and nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from asr_pathways.cli.main import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_it_has_every_command_and_the_public_names(site: Path) -> None:
    commands, python = ((site / page / "index.html").read_text() for page in ("commands", "python"))
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f'id="asr-pathways-{name}"' in commands
    for name in ("pruning.Pathways.attach", "pruning.PathwayConfig", "runtime.recognizer.Recognizer.transcribe"):
        assert f'id="asr_pathways.{name}"' in python


def test_it_loads_nothing_from_other_sites(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?://[^\" >]+)")
    for page in site.rglob("*.html"):
        assert not loads.findall(page.read_text()), page
