"""A headless Chromium with a microphone that plays a file, driven by its own protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")


class Page:
    """A page of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count()
        self.requested: list[str] = []
        self.problems: list[str] = []
        self.frames: list[tuple[str, str | None]] = []
        """Of WebSockets: (``sent`` or ``received``, text; None: samples)."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, seconds: float = 30.0, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; what happens meanwhile is noted."""
        number, latest = next(self._numbers), time.monotonic() + seconds
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(max(0.0, latest - time.monotonic())))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                answer = message["result"]
                assert isinstance(answer, dict)
                return answer
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method: str | None, about: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requested.append(about["url"])
        elif method in ("Network.webSocketFrameSent", "Network.webSocketFrameReceived"):
            frame = about["response"]
            direction = method.removeprefix("Network.webSocketFrame").lower()
            self.frames.append((direction, frame["payloadData"] if frame["opcode"] == 1 else None))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(about["exceptionDetails"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.problems.append(about["entry"]["text"])

    def run(self, script: str, seconds: float = 30.0) -> Any:
        """The value of an expression; of a promise, what it brings."""
        answer = self.ask(
            "Runtime.evaluate", seconds, expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 30.0) -> Any:
        """The value of an expression as soon as it is true: it is looked at whenever the page changes."""
        promise = f"""new Promise((resolve) => {{
            const look = () => {{
                const value = {script};
                if (!value) return;
                observer.disconnect();
                resolve(value);
            }};
            const observer = new MutationObserver(look);
            observer.observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
            look();
        }})"""
        try:
            return self.run(promise, seconds)
        except TimeoutError:
            pytest.fail(f"{script}: {self.run('document.body.innerText')} {self.problems}")

    def before(self, script: str) -> None:
        """Runs a script in each page that is opened, before its own."""
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.run("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def picture(self, path: Path, width: int, height: int = 900, dark: bool = False) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "char", "keyUp"):
            text = {"text": " "} if key == " " and kind == "char" else {}
            if kind != "char" or text:
                self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)


class Chromium:
    """A browser, whose microphone plays the file `sound` over and over, from its start each time that it is opened."""

    def __init__(self, sound: Path, port: int) -> None:
        self._sound, self._port = sound, port

    @contextmanager
    def page(self, sound: bytes) -> Iterator[Page]:
        """A page, and what its microphone plays: a WAV file."""
        self._sound.write_bytes(sound)
        request = Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urlopen(request, timeout=30) as answer:
            target = json.load(answer)
        with connect(target["webSocketDebuggerUrl"], max_size=None, open_timeout=30) as connection:
            page = Page(connection)
            yield page
            page.ask("Page.close")


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """A browser that keeps what it writes in a folder."""
    assert CHROMIUM is not None
    sound, profile = folder / "microphone.wav", folder / "profile"
    options = [
        "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-extensions", "--disable-component-update", "--mute-audio",
    ]  # fmt: skip
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    process = subprocess.Popen(
        [CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        latest = time.monotonic() + 60
        place = profile / "DevToolsActivePort"
        while not place.is_file() or not place.read_text():
            assert time.monotonic() < latest and process.poll() is None
            time.sleep(0.05)
        yield Chromium(sound, int(place.read_text().split()[0]))
    finally:
        process.terminate()
        process.wait(30)
