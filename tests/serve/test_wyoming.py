"""Home Assistant's protocol, by its own client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from asr_pathways.data.audio import to_int16
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.serve import wyoming
from asr_pathways.serve.run import serve
from asr_pathways.serve.service import Options
from tests.serve.conftest import SPOKEN, Running, as_read, running
from tests.serve.test_streams import until_free

PCM = to_int16(SPOKEN).tobytes()

T = TypeVar("T")


def talk(server: Running, conversation: Callable[[AsyncTcpClient], Awaitable[T]]) -> T:
    async def connected() -> T:
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port, read_timeout=20) as client:
            return await conversation(client)

    return asyncio.run(connected())


async def transcript(
    client: AsyncTcpClient, pcm: bytes, language: str | None, rate: int = 16_000, width: int = 2, channels: int = 1
) -> Event:
    """Or the error instead."""
    await say(client, pcm, language, rate, width, channels)
    return await answer(client)


async def answer(client: AsyncTcpClient) -> Event:
    """The transcript, or an error."""
    while (event := await client.read_event()) is not None:
        if Transcript.is_type(event.type) or Error.is_type(event.type):
            return event
    raise AssertionError("the server has left")


async def say(
    client: AsyncTcpClient, pcm: bytes, language: str | None, rate: int = 16_000, width: int = 2, channels: int = 1
) -> None:
    await client.write_event(Transcribe(language=language).event())
    await client.write_event(AudioStart(rate, width, channels).event())
    for start in range(0, len(pcm), 2048):
        await client.write_event(AudioChunk(rate, width, channels, pcm[start : start + 2048]).event())
    await client.write_event(AudioStop().event())


def test_a_wyoming_client_has_the_words_of_transcribe(server: Running, recognizer: Recognizer) -> None:
    """Several recordings over one connection."""

    async def conversation(client: AsyncTcpClient) -> list[Transcript]:
        return [Transcript.from_event(await transcript(client, PCM, language)) for language in ("fr", "en", "fr")]

    texts = {language: recognizer.transcribe(as_read(), language=language).text for language in ("en", "fr")}
    assert [(one.text, one.language) for one in talk(server, conversation)] == [
        (texts[language], language) for language in ("fr", "en", "fr")
    ]
    assert texts["en"] != texts["fr"]
    until_free(server)


def test_a_transcript_comes_as_it_grows_from_a_model_that_streams(server: Running, recognizer: Recognizer) -> None:
    """In chunks that are no whole number of samples; a client that knows no chunks waits for all of it."""
    asked = recognizer.transcribe(as_read(), language="fr").text

    async def conversation(client: AsyncTcpClient) -> list[Event]:
        await client.write_event(Transcribe(language="fr").event())
        await client.write_event(AudioStart(16_000, 2, 1).event())
        for start in range(0, len(PCM), 6_001):
            await client.write_event(AudioChunk(16_000, 2, 1, PCM[start : start + 6_001]).event())
        early = [await client.read_event(), await client.read_event()]  # before the recording ends
        await client.write_event(AudioStop().event())
        events = [event for event in early if event is not None]
        while not TranscriptStop.is_type(events[-1].type):
            event = await client.read_event()
            assert event is not None
            events.append(event)
        return events

    start, *chunks, whole, _ = talk(server, conversation)
    assert TranscriptStart.from_event(start).language == "fr"
    texts = [TranscriptChunk.from_event(chunk).text for chunk in chunks if TranscriptChunk.is_type(chunk.type)]
    assert len(texts) == len(chunks) > 1 and "".join(texts) == Transcript.from_event(whole).text == asked


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 2), (4, 1)])
def test_samples_are_of_any_width_and_channels(
    server: Running, recognizer: Recognizer, width: int, channels: int
) -> None:
    kind = {1: np.uint8, 2: np.int16, 4: np.int32}[width]
    full, middle = 2 ** (8 * width - 1) - 1, 128 if width == 1 else 0
    samples = np.repeat((SPOKEN * full).round().astype(kind if width > 1 else np.int16) + middle, channels)
    samples = samples.astype(kind)
    read = ((samples[::channels].astype(np.float64) - middle) / (full + 1)).astype(np.float32)
    found = talk(server, lambda client: transcript(client, samples.tobytes(), "fr", 16_000, width, channels))
    assert Transcript.from_event(found).text == recognizer.transcribe(read, language="fr").text


def test_the_rate_is_that_of_the_chunks(server: Running, recognizer: Recognizer) -> None:
    """Whatever was said at the start, if anything was; and it is one in a recording."""

    async def conversation(client: AsyncTcpClient, rates: list[int]) -> Event:
        await client.write_event(Transcribe(language="fr").event())
        await client.write_event(AudioStart(44_100, 4, 2).event())
        for rate in rates:
            await client.write_event(AudioChunk(rate, 2, 1, PCM[: len(PCM) // 2]).event())
        await client.write_event(AudioStop().event())
        return await answer(client)

    samples = np.frombuffer(PCM[: len(PCM) // 2], np.int16) / np.float32(32768)
    found = talk(server, lambda client: conversation(client, [8_000]))
    assert Transcript.from_event(found).text == recognizer.transcribe(samples, 8_000, language="fr").text
    refused = talk(server, lambda client: conversation(client, [8_000, 16_000]))
    assert Error.from_event(refused).text == (
        "samples of 2 bytes in 1 channels at 16000 Hz after others of 2 bytes in 1 channels at 8000 Hz"
    )
    until_free(server)


def test_it_says_what_it_has(server: Running) -> None:
    async def conversation(client: AsyncTcpClient) -> tuple[Event | None, Event | None]:
        await client.write_event(Describe().event())
        info = await client.read_event()
        await client.write_event(Event("what-is-this"))
        await client.write_event(Ping("there?").event())
        return info, await client.read_event()

    info, pong = talk(server, conversation)
    assert info is not None and pong is not None and Pong.from_event(pong).text == "there?"
    (program,) = Info.from_event(info).asr
    assert program.supports_transcript_streaming and server.service.recognizer.batched
    assert [(model.name, model.languages, model.installed) for model in program.models] == [("two", ["en", "fr"], True)]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"language": None}, "language: choose one of en fr"),
        ({"language": 7}, "language: a code is needed"),
        ({"language": "xx"}, "unknown language 'xx': this model knows en fr"),
        ({"language": "fr", "rate": 0}, "samples of 2 bytes in 1 channels at 0 Hz: "),
        ({"language": "fr", "width": 7}, "samples of 7 bytes"),
        ({"language": "fr", "width": "x"}, "samples of 'x' bytes"),
        ({"language": "fr", "channels": 0}, "samples of 2 bytes in 0 channels"),
        ({"language": "fr", "channels": 3000}, "the recording: not readable as audio: "),
        ({"language": "fr", "pcm": b""}, "the recording: no audio in it"),
        ({"language": "fr", "pcm": PCM * 40}, "the recording has more than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_recognised_is_an_error_event(
    server: Running, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object], says: str
) -> None:
    monkeypatch.setattr(wyoming, "RECORDING", 1_000_000)
    found = talk(server, lambda client: transcript(client, **{"pcm": PCM, **asked}))  # type: ignore[arg-type]
    assert says in Error.from_event(found).text and "\n" not in Error.from_event(found).text
    until_free(server)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b"{}\n",
        b"7\n",
        b"[" * 60_000 + b"\n",
        b"x" * 100_000,
        b'{"type": "audio-chunk", "payload_length": 99999999999}\n',
        b'{"type": "audio-chunk", "payload_length": "9"}\n',
        b'{"type": "transcribe", "data_length": 3}\n[1]',
        b'{"type": "transcribe", "data": 3}\n',
        b"\xff\xfe\n",
    ],
)
def test_garbage_ends_its_connection(server: Running, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=20) as raw:
        raw.sendall(garbage)
        answer = b""
        try:
            while more := raw.recv(1000):
                answer += more
        except ConnectionResetError:
            pass
    assert answer == b"" or b'"type": "error"' in answer
    until_free(server)


def test_a_connection_too_many_is_refused(two_file: Path) -> None:
    with running(two_file, max_streams=1) as server, socket.create_connection(("127.0.0.1", server.wyoming_port)):
        while not server.service.streams:
            pass
        found = talk(server, lambda client: client.read_event())
        assert found is not None and Error.from_event(found).text == "all 1 streams are in use: try again later"


def test_a_token_that_its_clients_cannot_send_is_refused(two_file: Path) -> None:
    with pytest.raises(PathwaysError, match="--wyoming: its clients send no token: leave --token out"):
        serve(two_file, "127.0.0.1", 0, Options(token="secret"), print, 0)
