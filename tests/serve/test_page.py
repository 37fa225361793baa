"""The page, in a real browser where there is one."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from asr_pathways.data.audio import Samples, read_audio
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime import auto_stream
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.serve.shares import kept_shares
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.serve.chromium import CHROMIUM, Chromium, chromium
from tests.serve.conftest import Running, running, wav
from tests.serve.test_streams import until_free

SAID = {
    "en": ("confbridge-locked", "the conference is now locked"),
    "es": ("vm-pls-try-again", "por favor intente de nuevo"),
    "fr": ("confbridge-leave-in", "pour quitter la conférence"),
    "it": ("vm-onefor-full", "premere uno per ascoltare"),
    "ru": ("conf-muted", "ваш микрофон выключен"),
}
"""A prompt of each language, and what it says."""

PROMPTS = [os.environ.get("ASR_PATHWAYS_PROMPTS", "data/prompts"), *map(str, Path("demo/data").glob("prompts-*"))]
"""Where they may be: `asr-pathways data prompts data/prompts` fetches them, and so does `make demo`."""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


def prompt(language: str) -> Samples:
    for folder in map(Path, PROMPTS):
        path = folder / "audio" / language / f"{language}-{SAID[language][0]}.flac"
        if path.is_file():
            return read_audio(path)
    pytest.skip("there are no prompts: make demo, or asr-pathways data prompts data/prompts")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@needs_browser
def test_a_microphone_becomes_captions_in_the_language_of_the_button(
    server: Running, browser: Chromium, tmp_path: Path
) -> None:
    with browser.page(wav()) as page:
        page.open(server.url)
        page.until("document.querySelectorAll('#languages input').length === 2")
        assert page.run("document.getElementById('model').textContent") == "two"
        assert "keeps 30% of the model" in page.run("document.getElementById('pathway').textContent")
        assert page.run("document.activeElement.tagName") == "BODY"
        page.press("Tab", 9)
        assert page.run("document.activeElement.value") == "en"
        page.press("ArrowRight", 39)
        assert page.run("document.querySelector('input[name=language]:checked').value") == "fr"
        page.press("Tab", 9)
        assert page.run("document.activeElement.id") == "microphone"
        page.press(" ", 32)
        page.until("document.getElementById('partial').textContent")
        assert page.run("document.getElementById('partial').lang") == "fr"
        assert page.run("[...document.querySelectorAll('label.active')].map((one) => one.control.value)") == ["fr"]
        assert page.run("document.getElementById('level').value") > 0.3
        assert page.until("parseFloat(document.getElementById('latency').textContent)") < 10
        assert page.run("document.getElementById('microphone').textContent") == "Stop"
        page.run("document.querySelector('input[value=en]').click()")
        page.until("!!document.querySelector('#finals p[lang=fr]')")
        page.until("document.getElementById('partial').lang === 'en' && document.getElementById('partial').textContent")
        for width in (360, 1400):
            page.picture(tmp_path / f"{width}.png", width)
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.run("document.getElementById('microphone').click()")
        page.until("document.getElementById('status').textContent === 'Stopped.'")
        until_free(server)
        spoken = page.run("[...document.querySelectorAll('#finals p')].map((p) => p.lang)")
        assert spoken[0] == "fr" and spoken[-1] == "en"
        assert not page.run("document.getElementById('srt').disabled")
        hosts = {url.split("/")[2] for url in page.requested if not url.startswith("data:")}
        assert hosts == {server.url.removeprefix("http://")} and page.problems == []


@pytest.fixture(scope="module")
def tiny() -> Iterator[Running]:
    with running(Path("models/tiny")) as started:
        yield started


@needs_browser
def test_real_prompts_are_captioned_in_five_languages_of_one_stream(tiny: Running, browser: Chromium) -> None:
    """The microphone plays all of them over and over, and each language is chosen once the one before was captioned."""
    pause = np.zeros(19_200, np.float32)
    sound = np.concatenate([part for language in SAID for part in (pause, prompt(language))])
    with browser.page(wav(sound)) as page:
        page.open(tiny.url)
        page.until("document.querySelectorAll('#languages input').length === 5")
        page.run("document.getElementById('microphone').click()")
        for language, (_, text) in SAID.items():
            page.run(f"document.querySelector('input[value={language}]').click()")
            words = text.split()
            captions = f"[...document.querySelectorAll('#captions p[lang={language}]')].map((p) => p.textContent)"
            known = f"{words}.filter((word) => caption.includes(word)).length"
            page.until(f"{captions}.some((caption) => {known} >= {len(words) - 1})", 90)
        page.run("document.getElementById('microphone').click()")
        page.until("document.getElementById('status').textContent === 'Stopped.'")
        until_free(tiny)
        assert page.problems == []
    received = [json.loads(str(text)) for direction, text in page.frames if direction == "received"]
    for language in list(SAID)[1:]:
        switch = page.frames.index(("sent", json.dumps({"language": language}, separators=(",", ":"))))
        before = 0.1 * page.frames[:switch].count(("sent", None))  # seconds of samples
        inside = [message for message in received if message["language"] == language]
        assert inside[0]["type"] == "language" and inside[1]["start"] == pytest.approx(before, abs=0.01)
    order = [message["language"] for message in received]
    assert list(dict.fromkeys(order)) == list(SAID) and order == sorted(order, key=list(SAID).index)


@needs_browser
def test_many_languages_are_a_list_and_auto_says_which_is_identified(
    hub_folder: Callable[[str], Path],  # noqa: F811
    browser: Chromium,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dense Whisper has 99 languages; the page is told that this one has them."""
    sound = wav(prompt("en"))
    monkeypatch.setattr(auto_stream, "ENOUGH", 0.5)
    with running(hub_folder("whisper")) as server, browser.page(sound) as page:
        known = server.service.recognizer.languages
        many = [*known, "sv", "nb", "da", "fi", "is", "et", "lv", "lt", "pl", "cs", "sk", "hu", "ja", "zh"]
        page.before(
            "const ask = window.fetch; window.fetch = async (...asked) => {"
            "const models = await (await ask(...asked)).json();"
            f"models.data[0].languages = {json.dumps(many)}; return Response.json(models); }}"
        )
        page.open(server.url)
        page.until("document.querySelectorAll('#languages option').length")
        options = page.run("[...document.querySelectorAll('#languages option')].map((one) => one.value)")
        assert options[0] == "auto" and sorted(options[1:]) == sorted(many)
        assert page.run("document.getElementById('pathway').textContent").startswith("The language is identified")
        page.run("document.getElementById('microphone').click()")
        code = page.until("document.getElementById('partial').textContent && document.getElementById('partial').lang")
        assert code in known and page.run("document.getElementById('pathway').textContent").startswith("Identified: ")
        page.run("document.querySelector('select').value = 'fr'")
        page.run("document.querySelector('select').dispatchEvent(new Event('change'))")
        page.until("document.getElementById('partial').textContent && document.getElementById('partial').lang === 'fr'")
        assert page.run("document.getElementById('pathway').textContent").startswith("Pathway: français, the whole")
        page.run("document.getElementById('microphone').click()")
        page.until("document.getElementById('status').textContent === 'Stopped.'")
        until_free(server)
        assert page.problems == []


@needs_browser
def test_a_file_is_transcribed_and_a_token_is_asked_for(
    two_file: Path, recognizer: Recognizer, browser: Chromium, tmp_path: Path
) -> None:
    sound = tmp_path / "spoken.wav"
    sound.write_bytes(wav())
    wanted = recognizer.transcribe(sound, language="en").text
    with running(two_file, token="secret") as server, browser.page(wav()) as page:
        page.open(server.url)
        page.until("!document.getElementById('login').hidden")
        page.run("document.getElementById('token').value = 'secret', document.querySelector('#login button').click()")
        page.until("!document.getElementById('panel').hidden")
        root = page.ask("DOM.getDocument")["root"]["nodeId"]
        node = page.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        page.ask("DOM.setFileInputFiles", nodeId=node, files=[str(sound)])
        page.until("!!document.querySelector('#finals p')")
        assert page.run("document.querySelector('#finals p').lastChild.textContent") == wanted
        page.run(dropped(sound.read_bytes()))
        page.until("document.querySelectorAll('#finals p').length === 2")
        assert page.run("document.querySelector('#finals p:last-child').lastChild.textContent") == wanted
        page.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.run("document.getElementById('srt').click()")
        until(lambda: (tmp_path / "captions.srt").is_file())
        assert (tmp_path / "captions.srt").read_text("utf-8").startswith("1\n00:00:00,000 --> ")
        # The stream has the token, too; and the language that was chosen while it was being opened.
        page.run("document.getElementById('microphone').click(), document.querySelector('input[value=fr]').click()")
        assert page.until("document.getElementById('partial').textContent && document.getElementById('partial').lang")
        assert page.run("document.getElementById('partial').lang") == "fr" and page.problems[1:] == []
        page.run("document.getElementById('microphone').click()")
        until_free(server)


def dropped(data: bytes) -> str:
    """What drops a recording on the page."""
    return f"""
        const files = new DataTransfer();
        const bytes = Uint8Array.from(atob("{base64.b64encode(data).decode()}"), (letter) => letter.charCodeAt(0));
        files.items.add(new File([bytes], "call.wav"));
        document.body.dispatchEvent(new DragEvent("drop", {{ bubbles: true, cancelable: true, dataTransfer: files }}));
    """


def until(done: Callable[[], bool]) -> None:
    latest = time.monotonic() + 20
    while not done():
        assert time.monotonic() < latest
        time.sleep(0.01)


@needs_browser
def test_captions_are_subrip_of_short_lines(server: Running, browser: Chromium) -> None:
    words = [{"word": f"word{number:02}", "start": number / 2, "end": number / 2 + 0.4} for number in range(30)]
    words.append({"word": "-->", "start": 3700.0, "end": 3700.5})
    segments = [{"text": " ".join(word["word"] for word in words), "start": 0, "end": 3701, "words": words}]
    with browser.page(wav()) as page:
        page.open(server.url)
        text = page.run(f"import('/page/srt.js').then((module) => module.srt({json.dumps(segments)}))")
    cues = text.rstrip("\n").split("\n\n")
    assert cues[0].startswith("1\n00:00:00,000 --> 00:00:05,900\nword00 ")
    assert cues[-1] == f"{len(cues)}\n01:01:40,000 --> 01:01:40,500\n->"
    lines = [line for cue in cues for line in cue.split("\n")[2:]]
    assert max(map(len, lines)) <= 44 and " ".join(lines).split() == [word["word"] for word in words[:-1]] + ["->"]


def test_the_page_says_what_it_may_ask_for(server: Running) -> None:
    with urlopen(server.url, timeout=20) as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert policy.startswith("default-src 'none'; script-src 'self'; ") and "unsafe" not in policy
    assert "http" not in text
    for name in ("page.js", "srt.js", "page.css", "microphone.js"):
        with urlopen(f"{server.url}/page/{name}", timeout=20) as answer:
            assert answer.status == 200 and b"http://" not in answer.read().replace(b"http://www.w3.org", b"")


@pytest.mark.parametrize("form", ["bundle", "folder", "dense"])
def test_shares_are_what_masks_keep(
    five: AsrModel, five_file: Path, dense_model: Path, tmp_path: Path, form: str
) -> None:
    if form == "dense":
        assert kept_shares(dense_model) == {}
        return
    path = five_file
    if form == "folder":
        path = tmp_path / "five"
        save_model(path, five)
    assert five.pathways is not None
    wanted = {
        language: sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        for language in five.languages
        for masks in [five.pathways.mask(language)]
    }
    assert kept_shares(path) == pytest.approx(wanted)
