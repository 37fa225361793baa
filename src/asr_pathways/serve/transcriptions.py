"""``POST /v1/audio/transcriptions``, as OpenAI's: a recording to text, captions, JSON or server-sent events."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.auto_stream import AUTO
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.results import Result
from asr_pathways.serve.service import Service
from asr_pathways.serve.upload import read_upload, receive_form, while_connected

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("segment", "word")
ALIAS = "whisper-1"
"""The model that clients of OpenAI name where nobody told them another: it is the one that is served."""

PIECE = 5.0
"""Seconds of a recording between two events."""


@dataclass(frozen=True)
class _Asked:
    """What a form asks for."""

    file: BinaryIO
    name: str
    language: str
    format: str
    granularities: frozenset[str]
    stream: bool

    @classmethod
    def read(cls, form: FormData, service: Service) -> _Asked:
        """Raises PathwaysError for what is no option, HTTPException for another model."""
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise PathwaysError("file: a form with an audio file is needed")
        require_model(_text(form, "model") or ALIAS, service)
        format = _text(form, "response_format") or "json"
        if format not in FORMATS:
            raise PathwaysError(f"response_format: {format!r}: choose among {', '.join(FORMATS)}")
        chosen = {str(value) for key in ("", "[]") for value in form.getlist(f"timestamp_granularities{key}")}
        if unknown := sorted(chosen - {*GRANULARITIES}):
            raise PathwaysError(f"timestamp_granularities: {unknown[0]!r}: choose among {', '.join(GRANULARITIES)}")
        if chosen and format != "verbose_json":
            raise PathwaysError("timestamp_granularities: of response_format verbose_json only")
        stream = (_text(form, "stream") or "false").lower()
        if stream not in ("true", "false", "1", "0"):
            raise PathwaysError(f"stream: {stream!r}: choose true or false")
        streamed = stream in ("true", "1")
        if streamed and format not in ("json", "text"):
            raise PathwaysError(f"stream: events have no response_format {format}: choose json")
        language = service.language(_text(form, "language"))
        return cls(file.file, file.filename or "file", language, format, frozenset(chosen or {"segment"}), streamed)

    def samples(self) -> Samples:
        """As `read_upload`. It is done in the turn of the recording: what waits is not in memory."""
        return read_upload(self.file, self.name)


def require_model(name: str, service: Service) -> None:
    """Raises HTTPException for another model than the one that is served."""
    if name not in (service.name, ALIAS):
        raise HTTPException(404, f"model {name!r} is not served here, but {service.name!r}")


async def transcriptions(request: Request) -> Response:
    """The endpoint. Errors are raised: see `asr_pathways.serve.app`."""
    service: Service = request.app.state.service
    try:
        with service.upload():
            form = await receive_form(request, service.options.max_upload)
        return await while_connected(request, _answered(form, service))
    except ClientDisconnect:
        return Response(status_code=400)  # which nobody receives


async def _answered(form: FormData, service: Service) -> Response:
    try:
        asked = _Asked.read(form, service)
        if asked.stream:
            events = _events(service, asked)
            first = await anext(events)  # what is refused is refused before the response begins
            return StreamingResponse(_after(first, events), media_type="text/event-stream")
        result = await service.recording(partial(_transcribed, service.recognizer, asked))
        service.audio_seconds += result.duration
        return _response(result, asked)
    finally:
        await form.close()


def _transcribed(recognizer: Recognizer, asked: _Asked) -> Result:
    return recognizer.transcribe(asked.samples(), language=asked.language, words="word" in asked.granularities)


def _response(result: Result, asked: _Asked) -> Response:
    if asked.format == "json":
        return JSONResponse({"text": result.text})
    if asked.format == "verbose_json":
        described = result.to_dict()
        if "word" in asked.granularities:
            described.setdefault("words", [])
        else:
            described.pop("words", None)
        if "segment" not in asked.granularities:
            del described["segments"]
        else:
            described["segments"] = list(map(_whole_segment, described["segments"]))
        return JSONResponse(described)
    text = {"text": lambda: result.text + "\n", "srt": result.to_srt, "vtt": result.to_vtt}[asked.format]()
    return PlainTextResponse(text)


def _whole_segment(segment: dict[str, Any]) -> dict[str, Any]:
    """With all that OpenAI's have: clients with static types refuse one without. No model here tells its tokens."""
    text = segment["text"].encode()
    ratio = round(len(text) / len(zlib.compress(text)), 4)
    return {
        "seek": round(100 * segment["start"]),
        "tokens": [],
        "temperature": 0.0,
        "compression_ratio": ratio,
        **segment,
    }


async def _events(service: Service, asked: _Asked) -> AsyncIterator[str]:
    """Server-sent events: what is new of the text, then all of it."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()
    left = threading.Event()

    def send(event: dict[str, Any] | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    job = asyncio.ensure_future(service.recording(partial(_recognize, service.recognizer, asked, send, left.is_set)))
    job.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
        service.audio_seconds += await job
    finally:
        left.set()
        job.cancel()


def _recognize(
    recognizer: Recognizer, asked: _Asked, send: Callable[[dict[str, Any]], None], left: Callable[[], bool]
) -> float:
    """Sends events of a recording: piece by piece, of a model that streams; ends early if the client has left.

    Returns:
        Its seconds.
    """
    samples, language, known = asked.samples(), asked.language, ""

    def grow(text: str) -> None:
        nonlocal known
        if text != known and text.startswith(known):
            send({"type": "transcript.text.delta", "delta": text[len(known) :]})
            known = text

    if recognizer.streams and language != AUTO:
        stream, size = recognizer.stream(language), round(PIECE * SAMPLE_RATE)
        for start in range(0, len(samples), size):
            if left():
                return start / SAMPLE_RATE
            stream.accept(samples[start : start + size])
            grow(stream.partial().text)
        text = stream.final().text
    else:
        text = recognizer.transcribe(samples, language=language).text
    grow(text)
    send({"type": "transcript.text.done", "text": text})
    return len(samples) / SAMPLE_RATE


async def _after(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in rest:
        yield event


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    if value is not None and not isinstance(value, str):
        raise PathwaysError(f"{name}: a text is needed, not a file")
    return value
