"""What users install: the source distribution, its wheel, and what an environment with that alone can do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import resample
from asr_pathways.data.corpora.espeak import Espeak
from asr_pathways.data.corpus import SAMPLE_RATE
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.recognizer import Recognizer

ROOT = Path(__file__).parents[1]
SOURCES = ("src", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def run(*command: object, **environment: str) -> str:
    """Standard output of a command, in the environment of a shell that knows nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in command], env=kept | environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, of a copy: setuptools writes beside what it packs."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
            )
        else:
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, copy)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip builds of the source distribution, with nothing but what is installed here."""
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's folder of programs: the wheel, and the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    where = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A line of a .pth file adds a folder without reading that folder's own: an editable installation there is not seen.
    (Path(where) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    )
    return programs


def test_the_source_has_what_a_build_needs_and_nothing_else(source: Path) -> None:
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kernels = ROOT / "src" / "asr_pathways" / "runtime" / "kernels"
    wanted = {
        path.relative_to(ROOT).as_posix() for suffix in ("cpp", "h", "pyi") for path in kernels.glob(f"*.{suffix}")
    }
    assert wanted <= names
    assert {"LICENSE", "setup.py", "pyproject.toml", "src/asr_pathways/serve/page/index.html"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(("data", "results"))]


def test_the_wheel_has_the_kernels_and_the_page_but_not_their_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "any" not in wheel.name
    assert [name for name in names if name.startswith("asr_pathways/runtime/kernels/_sparse.") and ".so" in name]
    page = {f"asr_pathways/serve/page/{path.name}" for path in (ROOT / "src/asr_pathways/serve/page").iterdir()}
    assert page <= {*names}
    assert {"asr_pathways/py.typed", "asr_pathways/experiment/report/style.css"} <= {*names}
    assert not [name for name in names if name.endswith((".cpp", ".h"))]


def test_what_is_installed_recognises_as_this_checkout_does(environment: Path, tmp_path: Path) -> None:
    where = run(environment / "python", "-c", "import asr_pathways; print(asr_pathways.__file__)")
    assert Path(where.strip()).is_relative_to(environment.parent)
    kernels = "from asr_pathways.runtime.kernels import extension; print(*extension.variants())"
    assert run(environment / "python", "-c", kernels).split() == extension.variants() != []
    bundle, clip = tmp_path / "tiny.asrp", tmp_path / "clip.wav"
    asr = load_model(ROOT / "models" / "tiny")
    asr.pathways = Pathways.attach(asr.model, PathwayConfig(sparsity=0.3, exclude=asr.model.unprunable), ["en"])
    write_bundle(asr, bundle)
    espeak = Espeak()
    speech = resample(espeak.say("please hold the line", "en-us").astype(np.float32) / 32768, espeak.rate)
    soundfile.write(clip, speech, SAMPLE_RATE)
    command = ("transcribe", bundle, "--language", "en", "--format", "json", clip)
    (line,) = run(environment / "asr-pathways", *command, OMP_NUM_THREADS="1").splitlines()
    assert json.loads(line)["text"] == Recognizer(bundle, "en").transcribe(clip).text != ""
