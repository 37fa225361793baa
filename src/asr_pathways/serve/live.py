"""``/v1/stream``: samples in; partial and final texts with times out; the language changes by a message."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from functools import partial

from starlette.websockets import WebSocket

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.stream import Stream, StreamResult
from asr_pathways.serve.conversation import Audio, converse, gathered, messages, require_keys, send, stream_language
from asr_pathways.serve.service import Service


async def live(socket: WebSocket) -> None:
    """The endpoint; docs/serve.md has its messages."""
    await converse(socket, _live)


class _Results:
    """Sends what has changed, and measures how long it took."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._shown: tuple[str, str] | None = None
        self.audio = self._compute = 0.0  # seconds

    async def of(self, decoding: Awaitable[StreamResult]) -> None:
        """Awaits a result, and sends it if it is new."""
        begun = time.perf_counter()
        result = await decoding
        self._compute += time.perf_counter() - begun
        shown = None if result.final else (result.text, result.stable)
        if not result.text or (shown is not None and shown == self._shown):
            return
        self._shown = shown
        words = [{"word": word.text, "start": word.start, "end": word.end} for word in result.words]
        await send(
            self._socket,
            {
                "type": "final" if result.final else "partial",
                "text": result.text,
                "stable": result.stable,
                "language": result.language,
                "start": round(result.start, 3),
                "end": round(result.end, 3),
                "words": words,
                "real_time_factor": round(self._compute / self.audio, 4),
            },
        )


async def _live(socket: WebSocket, service: Service) -> None:
    recognizer, audio, results = service.recognizer, Audio(16_000), _Results(socket)
    stream: Stream | None = None
    if len(recognizer.languages) == 1 or service.auto:
        stream = await service.run(partial(service.open, stream_language(service, None)))
    # Of a model that decodes again and again, what waits is decoded once.
    received = messages(socket) if recognizer.streams else gathered(socket)
    async for message in received:
        if isinstance(message, bytes):
            if stream is None:
                raise PathwaysError(f"language: choose one of {' '.join(recognizer.languages)} first")
            for samples in audio.pieces(message, service.piece):
                seconds = len(samples) / audio.rate
                results.audio += seconds
                service.audio_seconds += seconds
                await results.of(service.batches.advance(stream, samples, audio.rate))
            continue
        require_keys(message, ("language", "sample_rate", "encoding", "eof"))
        language = stream_language(service, message["language"]) if "language" in message else None
        if stream is not None:
            await results.of(service.run(stream.final))
        audio.set(message.get("sample_rate"), message.get("encoding"))
        if language is not None:
            if stream is None:
                stream = await service.run(partial(service.open, language))
            else:
                await service.run(partial(stream.switch, language))
            await send(socket, {"type": "language", "language": language})
        if message.get("eof"):
            return
