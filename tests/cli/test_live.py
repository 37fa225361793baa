"""Ctrl-C at a microphone, and the line that shows what is recognised so far."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_pathways.cli import live
from asr_pathways.cli.live import PartialLine, UntilInterrupted
from asr_pathways.data.audio import resample, to_int16
from asr_pathways.data.corpora.espeak import Espeak


def interrupt_soon(seconds: float = 0.2) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_bytes_are_read_to_their_end() -> None:
    with UntilInterrupted(io.BytesIO(bytes(range(10)))) as sound:
        assert [sound.read(4) for _ in range(4)] == [b"\0\1\2\3", b"\4\5\6\7", b"\x08\x09", b""]
    assert not sound.interrupted


def test_an_interrupt_ends_a_wait_and_loses_nothing() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, UntilInterrupted(pipe) as sound:
        os.write(write, b"abc")
        interrupt_soon()
        assert sound.read(8) == b"abc" and sound.interrupted
        assert sound.read(8) == b""
    os.close(write)


def test_what_waits_in_the_pipe_at_an_interrupt_is_still_read() -> None:
    """A recogniser that is slower than speech has some seconds of it before it."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, UntilInterrupted(pipe) as sound:
        os.write(write, b"abcdefgh")
        assert sound.read(2) == b"ab"
        os.kill(os.getpid(), signal.SIGINT)
        assert sound.read(4) == b"cdef" and sound.read(4) == b"gh" and sound.read(4) == b""
    os.close(write)


def test_a_second_interrupt_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), UntilInterrupted(io.BytesIO(b"")):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_background_job_goes_on_ignoring_interrupts() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with UntilInterrupted(io.BytesIO(b"abc")) as sound:
            os.kill(os.getpid(), signal.SIGINT)
            assert sound.read(8) == b"abc" and not sound.interrupted
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_at_the_microphone_prints_the_final_result_first() -> None:
    """Another process: the command, a pipe that stays open, and a signal."""
    espeak = Espeak()
    speech = espeak.say("one two three four five six seven eight nine ten", "en-us").astype(np.float32) / 32768
    samples = to_int16(resample(speech, espeak.rate)).astype("<i2")
    model = Path(__file__).parents[2] / "models" / "tiny"
    words = ("transcribe", str(model), "--language", "en", "--stream", "--format", "json", "-")
    process = subprocess.Popen(
        [sys.executable, "-m", "asr_pathways", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    patience = threading.Timer(100, process.kill)
    patience.start()
    process.stdin.write(samples.tobytes())
    process.stdin.flush()
    shown = process.stderr.readline()  # it is decoding
    process.send_signal(signal.SIGINT)
    out = process.stdout.read().decode()
    assert process.wait() == 130
    patience.cancel()
    assert shown.startswith(b"... ") and b"Traceback" not in process.stderr.read()
    # Nothing that was said is lost: what was in the pipe when the interrupt came, and the last words.
    results = [json.loads(line) for line in out.splitlines()]
    assert results and sum(result["duration"] for result in results) == pytest.approx(len(samples) / 16_000, abs=0.01)
    assert results[-1]["text"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, texts: list[str], columns: int = 40) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(live.shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    line = PartialLine()
    for text in texts:
        line.show(text)
    line.clear()
    return stream.getvalue()


def test_on_a_terminal_the_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one", "one", "one two"]
    assert shown(monkeypatch, Terminal(), texts) == "\r\x1b[K... one\r\x1b[K... one two\r\x1b[K"
    assert shown(monkeypatch, io.StringIO(), texts) == "... one\n... one two\n"
    assert shown(monkeypatch, Terminal(), []) == ""


@pytest.mark.parametrize("word", ["word", "слово", "言葉", "e\u0301te\u0301"])
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_long_text_grows_by_a_line_a_change_not_by_its_square(
    monkeypatch: pytest.MonkeyPatch, stream: Any, word: str
) -> None:
    from rich.cells import cell_len

    texts = [" ".join([word] * count) for count in range(1, 400)]
    written = shown(monkeypatch, stream(), texts)
    lines = [line for line in written.replace("\r\x1b[K", "\n").splitlines() if line]
    width = 39 if stream is Terminal else 100
    assert len(lines) > 10 and all(cell_len(line) <= width for line in lines)
    assert lines[-1].endswith(f" {word} {word}") and lines[-1].startswith("... ")
    assert shown(monkeypatch, stream(), ["天" * 300], 10).count("天") <= 50


def test_a_terminal_of_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), ["one two"], columns=0) == "\r\x1b[K... o\r\x1b[K"
