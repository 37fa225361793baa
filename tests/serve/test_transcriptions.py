"""OpenAI's transcriptions, by OpenAI's client and by bare requests."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai.types.audio import TranscriptionSegment

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.results import Result
from asr_pathways.serve import transcriptions, upload
from asr_pathways.serve.service import Options, Service
from tests.serve.conftest import SPOKEN, Running, running, wav

BOUNDARY = "x----x"


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0)


@pytest.fixture(scope="module")
def result(recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What `transcribe` says of the same file."""
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    path.write_bytes(wav())
    result = recognizer.transcribe(path, language="fr", words=True)
    assert len(result.words) > 3 and recognizer.transcribe(path, language="en").text != result.text
    return result


def form(fields: dict[str, str], file: bytes | None = None, name: str = "a.wav") -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if file is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + file + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def head(body: bytes) -> bytes:
    """What comes before a form."""
    return (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=%s\r\n\r\n" % (len(body), BOUNDARY.encode())
    )


def post(server: Running, body: bytes, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    given = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/v1/audio/transcriptions", body, given)
    response = connection.getresponse()
    return response.status, response.read().decode()


def get(server: Running, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.read().decode()


def message(answer: tuple[int, str]) -> str:
    said = json.loads(answer[1])["error"]["message"]
    assert isinstance(said, str) and "\n" not in said
    return said


def still_serves(server: Running, result: Result) -> None:
    status, answer = post(server, form({"language": "fr"}, wav()))
    assert status == 200 and json.loads(answer) == {"text": result.text}


def test_openai_client_has_the_words_of_transcribe(client: openai.OpenAI, server: Running, result: Result) -> None:
    (model,) = client.models.list().data
    assert model.id == server.service.name == "two" and client.models.retrieve("two").id == "two"
    assert client.models.retrieve("whisper-1").id == "two"
    create = client.audio.transcriptions.create
    for name in (model.id, "whisper-1"):
        assert create(file=("a.wav", wav()), model=name, language="fr").text == result.text
    common = {"file": ("a.wav", wav()), "model": model.id, "language": "fr"}
    assert create(**common, response_format="text") == result.text + "\n"
    timeless = replace(result, segments=tuple(replace(segment, words=()) for segment in result.segments))
    assert create(**common, response_format="srt") == timeless.to_srt()
    assert create(**common, response_format="vtt") == timeless.to_vtt()
    verbose = create(**common, response_format="verbose_json")
    assert verbose.text == result.text and verbose.words is None and verbose.duration == pytest.approx(result.duration)
    assert [(segment.start, segment.end, segment.text) for segment in verbose.segments or ()] == [
        (segment.start, segment.end, segment.text) for segment in result.segments
    ]
    (segment,) = verbose.segments or ()
    assert {*segment.to_dict()} >= {*TranscriptionSegment.model_fields}  # all that the client knows
    data = segment.text.encode()
    assert segment.compression_ratio == pytest.approx(len(data) / len(zlib.compress(data)), abs=1e-3)
    timed = create(**common, response_format="verbose_json", timestamp_granularities=["word"])
    assert [(word.word, word.start, word.end) for word in timed.words or ()] == [
        (word.text, word.start, word.end) for word in result.words
    ]
    assert timed.segments is None
    both = create(**common, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both.words and both.segments


def test_openai_client_streams_growing_text(
    client: openai.OpenAI, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriptions, "PIECE", 0.2)
    events = list(client.audio.transcriptions.create(file=("a.wav", wav()), model="two", language="fr", stream=True))
    deltas = [event.delta for event in events[:-1] if event.type == "transcript.text.delta"]
    assert len(deltas) == len(events) - 1 > 1 and "".join(deltas) == result.text
    assert events[-1].type == "transcript.text.done" and events[-1].text == result.text


def test_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown language 'xx': this model knows en fr"):
        client.audio.transcriptions.create(file=("a.wav", wav()), model="two", language="xx")
    with pytest.raises(openai.NotFoundError, match="'other' is not served here, but 'two'"):
        client.audio.transcriptions.create(file=("a.wav", wav()), model="other", language="fr")
    with pytest.raises(openai.NotFoundError, match="'other' is not served here, but 'two'"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, ""),
        (b"garbage", 400, ""),
        (form({"language": "fr"}), 400, "file: a form with an audio file is needed"),
        (form({}, wav()), 400, "language: choose one of en fr"),
        (form({"language": "auto"}, wav()), 400, "language: choose one of en fr"),
        (form({"language": "fr"}, b"not audio"), 400, "a.wav: not readable as audio"),
        (form({"language": "fr"}, b""), 400, "a.wav: empty file, no audio in it"),
        (form({"language": "fr"}, b"x", "../../etc/\u2028pass\x07wd"), 400, "not readable as audio"),
        (form({"language": "fr"}, wav()[:5000]), 400, "a.wav: truncated audio: "),
        (form({"language": "fr", "response_format": "xml"}, wav()), 400, "response_format: 'xml': choose among json"),
        (form({"language": "fr", "timestamp_granularities[]": "letter"}, wav()), 400, "timestamp_granularities: 'let"),
        (form({"language": "fr", "timestamp_granularities[]": "word"}, wav()), 400, "verbose_json only"),
        (form({"language": "fr", "stream": "maybe"}, wav()), 400, "stream: 'maybe': choose true or false"),
        (form({"language": "fr", "stream": "true", "response_format": "srt"}, wav()), 400, "stream: events have no"),
        (form({"language": "fr"}, wav()) + b"x" * 1_000_000, 413, "the request has more than 1,000,000 bytes"),
        (form({str(number): "" for number in range(60)}, wav()), 400, "Too many fields"),
    ],
)
def test_bad_requests_are_one_line_and_hurt_nobody(
    server: Running, result: Result, body: bytes, status: int, says: str
) -> None:
    answer = post(server, body)
    assert answer[0] == status and says in message(answer) and "/tmp" not in answer[1]
    still_serves(server, result)


def test_an_endless_upload_is_refused_while_it_comes(server: Running, result: Result) -> None:
    """It says no length beforehand."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x----x\r\n\r\n"
        )
        head = form({}, b"")[: -len(f"\r\n--{BOUNDARY}--\r\n")]
        raw.sendall(b"%x\r\n%s\r\n" % (len(head), head))
        sent = 0
        try:
            while sent < 20_000_000:
                raw.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
            raise AssertionError("all was taken")
        except OSError:
            pass
    assert sent < 10_000_000
    still_serves(server, result)


def test_a_slow_upload_is_given_up(server: Running, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "IDLE_TIME", 0.1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x----x\r\n\r\n--x--"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")
    still_serves(server, result)


def test_a_client_that_leaves_hurts_nobody(server: Running, result: Result) -> None:
    for sent in (b"POST /v1/aud", b"", b"\x00\xff garbage \r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(sent)
    body = form({"language": "fr", "stream": "true"}, wav())
    for part in (10, len(body) - 5, len(body)):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(head(body) + body[:part])
    still_serves(server, result)


def wait_for(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.01)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_recording_that_waits_goes_when_its_client_leaves(two_file: Path, result: Result, stream: str) -> None:
    with running(two_file, threads=1) as server:
        go, body = threading.Event(), form({"language": "fr", "stream": stream}, wav())
        server.service._recordings.submit(go.wait)
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(head(body) + body)
            wait_for(lambda: server.service.jobs == 1)
        wait_for(lambda: server.service.jobs == 0)
        go.set()
        still_serves(server, result)


def test_what_is_not_done_when_the_server_ends_is_answered(two_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_pathways.serve.run.GRACE", 0)
    go, answers = threading.Event(), list[tuple[int, str]]()
    with running(two_file, threads=1) as server:
        server.service._recordings.submit(go.wait)
        client = threading.Thread(target=lambda: answers.append(post(server, form({"language": "fr"}, wav()))))
        client.start()
        wait_for(lambda: server.service.jobs == 1)
    client.join()
    go.set()
    assert answers[0][0] == 503 and message(answers[0]) == "the server has ended"


def test_audio_that_unpacks_to_days_is_refused(server: Running, result: Result) -> None:
    """An hour and a second of silence."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 1_000, 1, format="FLAC", subtype="PCM_16") as sound:
        for _ in range(3601):
            sound.write(np.zeros(1_000, np.int16))
    assert len(file.getvalue()) < 100_000
    answer = post(server, form({"language": "fr"}, file.getvalue(), "a.flac"))
    assert answer[0] == 400 and message(answer) == "a.flac: 3601 s of audio: at most 3600 s are recognised"
    still_serves(server, result)


def test_many_channels_count(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MOST_VALUES", 2 * len(SPOKEN))
    three = wav(np.stack([SPOKEN] * 3, axis=1))
    answer = post(server, form({"language": "fr"}, three))
    assert answer[0] == 400 and "samples in all channels" in message(answer)


def test_nothing_is_left_in_the_temporary_folder(
    server: Running, result: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert post(server, form({"language": "fr"}, wav()))[0] == 200
    assert post(server, form({"language": "fr"}, b"none"))[0] == 400
    assert list(tmp_path.iterdir()) == []


def test_too_many_recordings_are_refused_at_once(two_file: Path, result: Result) -> None:
    with running(two_file, threads=1) as server:
        go = threading.Event()
        jobs = [threading.Thread(target=post, args=(server, form({"language": "fr"}, wav()))) for _ in range(9)]
        server.service._recordings.submit(go.wait)
        for job in jobs:
            job.start()
        while server.service.jobs < 9:
            time.sleep(0.01)
        answer = post(server, form({"language": "fr"}, wav()))
        assert answer[0] == 429 and "too many recordings wait already" in message(answer)
        assert get(server, "/health")[0] == 200
        go.set()
        for job in jobs:
            job.join()
        still_serves(server, result)
        assert 'status="429"} 1' in get(server, "/metrics")[1]


def test_what_waits_is_not_in_memory_and_is_not_refused_later(
    two_file: Path, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording is read and recognised in one turn."""
    read, recognised = [], list[int]()
    reads, recognises = transcriptions.read_upload, Recognizer.transcribe
    monkeypatch.setattr(transcriptions, "read_upload", lambda *given: read.append(1) or reads(*given))
    with running(two_file, threads=1) as server:

        def transcribe(*given: Any, **options: Any) -> Result:
            recognised.append(len(read))
            return recognises(*given, **options)

        monkeypatch.setattr(Recognizer, "transcribe", transcribe)
        go, answers = threading.Event(), list[int]()
        body = form({"language": "fr"}, wav())
        jobs = [threading.Thread(target=lambda: answers.append(post(server, body)[0])) for _ in range(3)]
        server.service._recordings.submit(go.wait)
        for job in jobs:
            job.start()
        wait_for(lambda: server.service.jobs == 3)
        go.set()
        for job in jobs:
            job.join()
    assert recognised == [1, 2, 3] and answers == [200] * 3


def test_too_many_uploads_are_refused_at_once(two_file: Path, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_pathways.serve.service.UPLOADS", 1)
    with running(two_file) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=x----x\r\n\r\n--x--"
            )
            while not server.service._uploads:
                time.sleep(0.01)
            assert post(server, form({"language": "fr"}, wav()))[0] == 429
        while server.service._uploads:
            time.sleep(0.01)
        still_serves(server, result)


def test_only_who_has_the_token_is_served(two_file: Path, result: Result) -> None:
    with running(two_file, token="secret!") as server:
        right, body = "Bearer secret!", form({"language": "fr"}, wav())
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret!"}):
            answer = post(server, body, **headers)
            assert answer[0] == 401 and message(answer) == "the token is missing or wrong"
            assert get(server, "/v1/models", **headers)[0] == get(server, "/metrics", **headers)[0] == 401
        assert get(server, "/v1/models?token=secret!")[0] == 401
        assert get(server, "/health") == (200, '{"status":"ok"}')
        assert post(server, body, Authorization=right)[0] == 200


@pytest.mark.parametrize("token", ["", " ", "two words", "s\u00e9cret"])
def test_a_token_that_nobody_can_send_is_refused(two_file: Path, token: str) -> None:
    with pytest.raises(PathwaysError, match="--token: letters, digits and marks of ASCII are needed"):
        Service(two_file, Options(token=token))


def test_pages_of_others_are_refused(server: Running) -> None:
    body, own = form({"language": "fr"}, wav()), f"127.0.0.1:{server.port}"
    assert post(server, body, Origin=f"http://{own}")[0] == 200
    for origin in ("http://evil.example", "null", "http://[", "http://127.0.0.1:1", f"http://{own}.evil.example"):
        assert post(server, body, Origin=origin)[0] == 403
    assert get(server, "/v1/models", Host="evil.example")[0] == 400
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/v1/models")
    assert not [name for name, _ in connection.getresponse().getheaders() if name.lower().startswith("access-control")]


def test_metrics_are_counted_by_route(server: Running, result: Result) -> None:
    def count(text: str, line: str) -> float:
        return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith(line))

    before = get(server, "/metrics")[1]
    still_serves(server, result)
    get(server, "/nowhere/at/all")
    after = get(server, "/metrics")[1]
    posted = 'asr_pathways_responses_total{method="POST",route="/v1/audio/transcriptions",status="200"}'
    assert count(after, posted) == count(before, posted) + 1
    other = 'asr_pathways_responses_total{method="GET",route="other",status="404"}'
    assert count(after, other) == count(before, other) + 1 and "nowhere" not in after
    audio = "asr_pathways_audio_seconds_total"
    assert count(after, audio) - count(before, audio) == pytest.approx(result.duration, abs=0.01)
    assert count(after, "asr_pathways_recordings") == 0
