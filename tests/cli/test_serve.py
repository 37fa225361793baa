"""``serve`` as people start it and end it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from asr_pathways.cli.main import main
from tests.serve.conftest import wav
from tests.serve.test_transcriptions import form, head


def test_it_says_where_it_is_and_ends_at_an_interrupt(five_file: Path) -> None:
    command = [sys.executable, "-m", "asr_pathways", "serve", str(five_file), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address, _, rest = server.stderr.readline().partition(": ")
        assert rest == "Ctrl-C ends it\n" and address.startswith("http://127.0.0.1:")
        with urlopen(f"{address}/v1/models", timeout=20) as answer:
            assert json.load(answer)["data"][0]["id"] == "five"
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0 and server.stderr.read() == ""


SLOW = """
import sys, time
from asr_pathways.cli.main import main
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.serve import run
run.GRACE = 0
Recognizer.transcribe = lambda *_, **__: print("begun", flush=True) or time.sleep(60)
main()
"""


def test_an_interrupt_does_not_wait_for_a_recording_that_has_begun(five_file: Path) -> None:
    command = [sys.executable, "-c", SLOW, "serve", str(five_file), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        host, _, port = server.stderr.readline().partition(": ")[0].removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            body = form({"language": "fr"}, wav())
            client.sendall(head(body) + body)
            assert server.stdout.readline() == "begun\n"
            server.send_signal(signal.SIGINT)
            assert b"503" in client.recv(1000)
            assert server.wait(30) == 0 and "Traceback" not in server.stderr.read()


def test_a_port_in_use_is_one_line(
    five_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["asr-pathways", "serve", str(five_file), "--port", port])
        with pytest.raises(SystemExit, match="1"):
            main()
    line = f"asr-pathways: 127.0.0.1 port {port}: cannot listen there: Address already in use: "
    line += "choose another port, or 0, which is any that is free\n"
    assert capsys.readouterr().err == line


def test_without_the_extra_it_says_how_to_get_it(
    five_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asr_pathways.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    monkeypatch.setattr(sys, "argv", ["asr-pathways", "serve", str(five_file)])
    with pytest.raises(SystemExit, match="1"):
        main()
    line = "asr-pathways: serve needs the package uvicorn: pip install 'asr-pathways[serve]'\n"
    assert capsys.readouterr().err == line
