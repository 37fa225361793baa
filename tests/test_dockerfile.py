"""The Dockerfile, as far as it can be checked without Docker: what it copies and installs is there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import typer.main

from asr_pathways.cli.main import app

if sys.version_info < (3, 11):
    pytest.skip("no tomllib", allow_module_level=True)
import tomllib

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_what_it_copies_is_in_the_repository_and_not_ignored() -> None:
    copied = [path for line in instructions("COPY") if "--from" not in line for path in line.split()[:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied and {*copied} == kept
    assert all((ROOT / path).exists() for path in copied)


def test_what_it_installs_and_runs_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.search(r"\.whl\)\[(.*?)\]", " ".join(instructions("RUN")))
    assert extras and {*extras[1].split(",")} <= {*project["optional-dependencies"]}
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry)[0] in project["scripts"]
    assert "serve" in typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_it_does_not_run_as_root() -> None:
    assert instructions("USER")[-1] != "root"
