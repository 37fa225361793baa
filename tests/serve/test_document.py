"""What docs/serve.md tells its readers to run of other programs, as it stands there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from asr_pathways.runtime.recognizer import Recognizer
from tests.serve.conftest import Running, wav

LINES = [line[4:] for line in Path("docs/serve.md").read_text("utf-8").splitlines() if line.startswith("    ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader is, with a recording."""
    (tmp_path / "call.wav").write_bytes(wav())
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_has_the_words_of_transcribe(server: Running, recognizer: Recognizer, folder: Path) -> None:
    commands = [line for line in LINES if line.startswith("curl ")]
    answers = [
        subprocess.check_output(
            [line.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")], shell=True, cwd=folder, text=True
        )
        for line in commands
    ]
    result = recognizer.transcribe(folder / "call.wav", language="fr")
    text, srt, events = answers
    assert json.loads(text) == {"text": result.text} and srt == result.to_srt()
    assert json.loads(events.rpartition("data: ")[2]) == {"type": "transcript.text.done", "text": result.text}


def test_the_client_of_the_document_has_them_too(
    server: Running, recognizer: Recognizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    begin = LINES.index("from openai import OpenAI")
    *statements, last = [
        line.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}") for line in LINES[begin : begin + 3]
    ]
    names: dict[str, object] = {}
    exec("\n".join(statements), names)
    assert eval(last, names) == recognizer.transcribe("call.wav", language="fr").text
