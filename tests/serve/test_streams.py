"""Streams over WebSockets, in both protocols, and what clients can do to each other."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from asr_pathways.data.audio import to_int16
from asr_pathways.data.voice_activity import FRAME
from asr_pathways.runtime import auto_stream, local_agreement
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.serve import conversation
from tests.models.hub.conftest import hub_folder  # noqa: F401
from tests.runtime.test_speech_parts import Loudness
from tests.serve.conftest import SPOKEN, Running, as_read, running, wav
from tests.serve.test_transcriptions import form, post

PCM = to_int16(SPOKEN).tobytes()


def opened(server: Running, path: str = "/v1/stream", **options: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, open_timeout=20, **options)


def say(ws: ClientConnection, **message: object) -> None:
    ws.send(json.dumps(message))


def rest(ws: ClientConnection) -> list[dict[str, Any]]:
    return [json.loads(message) for message in ws]


def finals(messages: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in messages if message["type"] == "final"]


def recognised(server: Running, language: str = "fr") -> str:
    with opened(server) as ws:
        say(ws, language=language)
        ws.send(PCM)
        say(ws, eof=1)
        return " ".join(finals(rest(ws)))


def test_pieces_of_any_size_have_the_words_of_transcribe(server: Running, recognizer: Recognizer) -> None:
    """A piece may end in the middle of a sample."""
    wanted = recognizer.transcribe(as_read(), language="fr", words=True)
    for encoding, data in (("s16le", PCM), ("f32le", as_read().tobytes())):
        with opened(server) as ws:
            say(ws, language="fr", encoding=encoding, sample_rate=16_000)
            for start in range(0, len(data), 4_001):
                ws.send(data[start : start + 4_001])
            say(ws, eof=1)
            messages = rest(ws)
            assert ws.close_code == 1000
        assert messages[0] == {"type": "language", "language": "fr"}
        partials = [message["text"] for message in messages if message["type"] == "partial"]
        assert len(partials) > 3 and len(set(partials)) == len(partials) and wanted.text.startswith(partials[0])
        last = messages[-1]
        assert (last["type"], last["text"], last["language"], last["start"]) == ("final", wanted.text, "fr", 0.0)
        assert last["end"] == pytest.approx(wanted.duration, abs=0.001) and 0 < last["real_time_factor"] < 10
        assert [(word["word"], word["start"], word["end"]) for word in last["words"]] == [
            (word.text, word.start, word.end) for word in wanted.words
        ]


def test_other_rates_are_resampled(server: Running, two_file: Path) -> None:
    slow, stream = to_int16(SPOKEN[::2].copy()), Recognizer(two_file).stream("fr")
    stream.accept(slow.astype(np.float32) / 32768, 8_000)
    wanted = stream.final().text
    with opened(server) as ws:
        say(ws, language="fr", sample_rate=8_000)
        for part in np.array_split(slow, 7):
            ws.send(part.tobytes())
        say(ws, eof=1)
        assert finals(rest(ws)) == [wanted] and wanted


def test_the_language_is_switched_between_two_segments(server: Running) -> None:
    """What was said before is final first, and what comes after is in the new language from its first sample."""
    order = ("fr", "en", "fr")
    alone = {language: recognised(server, language) for language in order}
    assert alone["fr"] != alone["en"]
    with opened(server) as ws:
        for language in order:
            say(ws, language=language)
            ws.send(PCM)
        say(ws, eof=1)
        messages = [message for message in rest(ws) if message["type"] != "partial"]
    switches = [place for place, message in enumerate(messages) if message["type"] == "language"]
    assert [messages[place]["language"] for place in switches] == list(order)
    seconds = len(SPOKEN) / 16_000
    for number, (begin, end) in enumerate(zip(switches, [*switches[1:], len(messages)], strict=True)):
        said = messages[begin + 1 : end]
        assert {message["language"] for message in said} == {order[number]}
        assert " ".join(finals(said)) == alone[order[number]]
        assert said[0]["start"] == pytest.approx(number * seconds, abs=0.001)


def test_a_vosk_client_has_the_words_of_transcribe(server: Running, recognizer: Recognizer) -> None:
    """The messages of the public example client: a reply is awaited after each."""
    wanted = recognizer.transcribe(as_read(), language="fr", words=True)
    with opened(server, "/vosk?language=fr") as ws:
        ws.send('{ "config" : { "sample_rate" : 16000 } }')
        replies = []
        for start in range(0, len(PCM), 8_000):
            ws.send(PCM[start : start + 8_000])
            replies.append(json.loads(ws.recv(20)))
        ws.send('{"eof" : 1}')
        last = json.loads(ws.recv(20))
        assert rest(ws) == [] and ws.close_code == 1000
    assert all(list(reply) == ["partial"] for reply in replies) and replies[-1]["partial"]
    assert last["text"] == wanted.text
    assert [(word["word"], word["start"], word["end"]) for word in last["result"]] == [
        (word.text, word.start, word.end) for word in wanted.words
    ]


def test_vosk_without_config_is_8_khz_and_silence_is_an_empty_text(server: Running, two_file: Path) -> None:
    slow, stream = to_int16(SPOKEN[::2].copy()), Recognizer(two_file).stream("fr")
    stream.accept(slow.astype(np.float32) / 32768, 8_000)
    with opened(server, "/vosk?language=fr") as ws:
        ws.send(b"")
        assert json.loads(ws.recv(20)) == {"partial": ""}
        ws.send('{"reset": 1}')
        assert json.loads(ws.recv(20)) == {"text": ""}
        ws.send(slow.tobytes())
        ws.recv(20)
        ws.send('{"eof" : 1}')
        assert json.loads(ws.recv(20))["text"] == stream.final().text


@pytest.mark.parametrize(
    ("path", "messages", "says"),
    [
        ("/v1/stream", [b"\0" * 100], "language: choose one of en fr"),
        ("/v1/stream", ['{"language": "xx"}'], "unknown language 'xx': this model knows en fr"),
        ("/v1/stream", ['{"language": "auto"}'], "language: choose one of en fr"),
        ("/v1/stream", ['{"language": 7}'], "language: a code is needed"),
        ("/v1/stream", ['{"language": ["fr"]}'], "language: a code is needed"),
        ("/v1/stream", ['{"sample_rate": 3}'], "sample rate 3 Hz: it must be from 1,000 to 10,000,000 Hz"),
        ("/v1/stream", ['{"sample_rate": NaN}'], "sample rate nan Hz: it must be"),
        ("/v1/stream", ['{"sample_rate": 1' + 400 * "0" + "}"], f"sample rate 1{39 * '0'} Hz: it must be"),
        ("/v1/stream", ['{"sample_rate": true}'], "sample rate True Hz: it must be"),
        ("/v1/stream", ['{"encoding": "mp3"}'], "encoding 'mp3': choose among s16le, f32le"),
        ("/v1/stream", ['{"encoding": {}}'], "encoding {}: choose among"),
        ("/v1/stream", ['{"colour": 1}'], "'colour' is no part of a message"),
        ("/v1/stream", ["{}"], "an empty message"),
        ("/v1/stream", ["no json"], "not valid JSON: "),
        ("/v1/stream", ["[" * 100_000], "not valid JSON: nested too deeply"),
        ("/v1/stream", ["[]"], "a message is samples or a JSON object"),
        ("/v1/stream", ['{"language": "fr", "encoding": "f32le"}', b"\xff" * 4000], "values that are not finite"),
        (
            "/v1/stream",
            ['{"language": "fr", "encoding": "f32le"}', np.full(999, 8e3, "<f4").tobytes()],
            "samples reach 8000 where full scale is 1",
        ),
        ("/vosk", [b"\0"], "language: choose one of en fr"),
        ("/vosk?language=xx", [b"\0"], "unknown language 'xx'"),
        ("/vosk?language=fr", ['{"config": 1}'], "config: an object is needed"),
        ("/vosk?language=fr", ['{"config": {"sample_rate": "x"}}'], "sample rate x Hz: it must be"),
        ("/vosk?language=fr", ['{"what": 1}'], "'what' is no part of a message"),
    ],
)
def test_broken_messages_end_their_stream_with_a_line(
    server: Running, path: str, messages: list[str | bytes], says: str
) -> None:
    with opened(server, path) as ws:
        try:
            for message in messages:
                ws.send(message)
        except ConnectionClosed:
            pass
        last = rest_of_closed(ws)[-1]
        assert last["type"] == "error" and says in last["message"] and "\n" not in last["message"]
        assert ws.close_code == 1007
    assert recognised(server)
    assert server.service.streams <= 1


def rest_of_closed(ws: ClientConnection) -> list[dict[str, Any]]:
    messages = []
    try:
        while True:
            messages.append(json.loads(ws.recv(20)))
    except ConnectionClosed:
        return messages


def until_free(server: Running) -> None:
    latest = time.monotonic() + 20
    while server.service.streams:
        assert time.monotonic() < latest
        time.sleep(0.01)


def test_a_stream_that_the_server_fails_is_closed_by_a_code(two_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def advance(*_: object) -> None:
        raise ZeroDivisionError

    with running(two_file) as server:
        with monkeypatch.context() as patch, opened(server) as ws:
            patch.setattr(server.service.batches, "advance", advance)
            say(ws, language="fr")
            ws.send(PCM)
            assert [message["type"] for message in rest_of_closed(ws)] == ["language"] and ws.close_code == 1011
        until_free(server)
        assert recognised(server)


def test_a_stream_too_many_is_refused_at_once(two_file: Path) -> None:
    """Which is no error of the server, and so none in its log."""
    log, said = logging.Handler(), list[logging.LogRecord]()
    log.emit = said.append  # type: ignore[method-assign]
    with running(two_file, max_streams=2) as server:
        logging.getLogger("uvicorn.error").addHandler(log)
        with opened(server), opened(server, "/vosk?language=fr"):
            for path in ("/v1/stream", "/vosk?language=fr"):
                with pytest.raises(InvalidStatus) as refused:
                    opened(server, path)
                assert refused.value.response.status_code == 429
        until_free(server)
        assert recognised(server)
    logging.getLogger("uvicorn.error").removeHandler(log)
    assert [record.getMessage() for record in said if record.levelno >= logging.WARNING] == []


def test_a_stream_does_not_wait_for_recordings(
    two_file: Path, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, go = recognizer.transcribe(as_read(), language="fr"), threading.Event()
    monkeypatch.setattr(Recognizer, "transcribe", lambda *_, **__: wanted if go.wait(20) else None)
    with running(two_file, threads=1) as server:
        recording = threading.Thread(target=post, args=(server, form({"language": "fr"}, wav())))
        recording.start()
        try:
            while not server.service.jobs:
                time.sleep(0.01)
            assert recognised(server) == wanted.text
            assert server.service.jobs == 1
        finally:
            go.set()
            recording.join()


def test_who_sends_nothing_and_who_reads_nothing_is_left(two_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "IDLE_TIME", 0.2)
    monkeypatch.setattr(conversation, "SEND_TIME", 0.2)
    with running(two_file) as server, opened(server) as idle:
        assert rest_of_closed(idle) == [] and idle.close_code == 1008
        until_free(server)

        async def stuck(*_: object) -> None:
            await asyncio.sleep(60)

        with monkeypatch.context() as patch, opened(server) as deaf:
            patch.setattr("starlette.websockets.WebSocket.send_text", stuck)
            say(deaf, language="fr")
            assert rest_of_closed(deaf) == [] and deaf.close_code == 1008
        until_free(server)


def test_a_result_for_a_stream_that_the_server_has_closed_is_dropped() -> None:
    """As it does where no ping is answered: uvicorn takes no message then."""

    async def gone(message: Any) -> None:
        raise RuntimeError(f"Unexpected ASGI message {message['type']!r}, after sending 'websocket.close'.")

    async def connected() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def stream() -> None:
        ws = WebSocket({"type": "websocket"}, connected, gone)
        ws.application_state = WebSocketState.CONNECTED
        await conversation.send(ws, {})

    with pytest.raises(WebSocketDisconnect):
        asyncio.run(stream())


def test_huge_messages_are_refused(server: Running) -> None:
    with opened(server) as ws:
        say(ws, language="fr")
        ws.recv(20)
        try:
            ws.send(b"\0" * (1 << 21))
            ws.recv(20)
        except ConnectionClosed:
            pass
        assert rest_of_closed(ws) == [] and ws.close_code == 1009
    assert recognised(server)


def test_streams_side_by_side_that_are_cut_and_garbled_change_no_words(two_file: Path) -> None:
    with running(two_file, max_streams=40) as server:
        wanted = {language: recognised(server, language) for language in ("en", "fr")}
        texts: list[tuple[str, str]] = []

        def well(language: str) -> None:
            texts.append((recognised(server, language), wanted[language]))

        def badly(seed: int) -> None:
            draw = random.Random(seed)
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
                raw.sendall(
                    b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                )
                raw.recv(1000)
                raw.sendall(draw.randbytes(draw.randrange(1, 3000)))

        jobs = [threading.Thread(target=well, args=(("en", "fr")[number % 2],)) for number in range(8)]
        jobs += [threading.Thread(target=badly, args=(seed,)) for seed in range(16)]
        random.Random(0).shuffle(jobs)
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        assert len(texts) == 8 and all(text == right for text, right in texts)
        until_free(server)
        assert recognised(server) == wanted["fr"]


def test_a_client_that_leaves_frees_its_stream(server: Running) -> None:
    for sent in ([], [PCM], [PCM, PCM[:101]]):
        with opened(server) as ws:
            say(ws, language="fr")
            for data in sent:
                ws.send(data)
            ws.socket.shutdown(socket.SHUT_RDWR)
    until_free(server)


def test_only_who_has_the_token_and_no_page_of_others_streams(two_file: Path, server: Running) -> None:
    with running(two_file, token="secret") as guarded:
        for path, headers in (
            ("/v1/stream", {}),
            ("/v1/stream?token=other", {}),
            ("/vosk", {"Authorization": "Bearer other"}),
            ("/vosk?token=secret", {"Origin": "http://evil.example"}),
        ):
            with pytest.raises(InvalidStatus) as refused:
                opened(guarded, path, additional_headers=headers)
            assert refused.value.response.status_code == (403 if "Origin" in headers else 401)
        for path, headers in (
            ("/v1/stream?token=secret", {}),
            ("/vosk?language=fr", {"Authorization": "Bearer secret"}),
        ):
            with opened(guarded, path, additional_headers=headers) as ws:
                assert ws.response is not None and ws.response.status_code == 101
    with pytest.raises(InvalidStatus) as refused:
        opened(server, additional_headers={"Host": "evil.example"})
    assert refused.value.response.status_code == 400


def test_a_model_that_does_not_stream_has_streams_too(hub_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """By local agreement; the words are those of the whole."""
    monkeypatch.setattr(local_agreement, "VoiceActivity", Loudness)
    monkeypatch.setattr("asr_pathways.runtime.recognizer.is_silent", lambda _: False)
    noise = (0.9 + 0.09 * np.random.default_rng(0).random(16 * FRAME)).astype(np.float32)
    wanted = Recognizer(hub_folder("whisper")).transcribe(noise, language="fr").text
    with running(hub_folder("whisper")) as server:
        for path, begin in (("/v1/stream", {"language": "fr", "encoding": "f32le"}), ("/vosk?language=fr", None)):
            with opened(server, path) as ws:
                if begin is not None:
                    say(ws, **begin)
                    for piece in np.split(noise, [700, 5_000]):
                        ws.send(piece.tobytes())
                else:
                    say(ws, config={"sample_rate": 16_000})
                    ws.send(to_int16(noise).tobytes())
                say(ws, eof=1)
                last = rest(ws)[-1]
                assert last["text"] == wanted and wanted
                if begin is not None:
                    assert (last["type"], last["stable"]) == ("final", wanted)
                    assert "".join(word["word"] for word in last["words"]) == wanted.replace(" ", "")


def test_the_language_of_a_stream_is_identified_unless_it_is_named(
    hub_folder: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a model that tells languages apart; from one to the other on the live stream, in both protocols."""
    for module in (auto_stream, local_agreement):
        monkeypatch.setattr(module, "VoiceActivity", Loudness)
    monkeypatch.setattr("asr_pathways.runtime.recognizer.is_silent", lambda _: False)
    noise = (0.9 + 0.09 * np.random.default_rng(0).random(16 * FRAME)).astype(np.float32)
    data = to_int16(noise).tobytes()
    with running(hub_folder("whisper")) as server:
        identified = server.service.recognizer.transcribe(as_read(noise), language="auto")
        named = server.service.recognizer.transcribe(as_read(noise), language="fr")
        assert server.service.auto and identified.language != "fr"
        with opened(server) as ws:
            ws.send(data)
            for language in ("fr", "auto"):
                say(ws, language=language)
                ws.send(data)
            say(ws, eof=1)
            messages = [message for message in rest(ws) if message["type"] != "partial"]
        assert [(message["type"], message["language"], message.get("text")) for message in messages] == [
            ("final", identified.language, identified.text),
            ("language", "fr", None),
            ("final", "fr", named.text),
            ("language", "auto", None),
            ("final", identified.language, identified.text),
        ]
        with opened(server, "/vosk") as ws:
            say(ws, config={"sample_rate": 16_000})
            ws.send(data)
            say(ws, eof=1)
            assert rest(ws)[-1]["text"] == identified.text
