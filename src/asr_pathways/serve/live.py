"""``/v1/stream``: samples in; partial and final texts with times out; the language changes by a message."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from starlette.websockets import WebSocket

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.streaming import Stream, StreamResult
from asr_pathways.serve.conversation import Audio, advance, converse, messages, require_keys, send, stream_language
from asr_pathways.serve.service import Service


async def live(socket: WebSocket) -> None:
    """The endpoint; docs/serve.md has its messages."""
    await converse(socket, _live)


class _Results:
    """Sends what has changed, and measures how long it took."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket, self._service = socket, service
        self._shown = ""
        self.audio = self._compute = 0.0  # seconds

    async def of(self, function: Callable[[], StreamResult]) -> None:
        """Runs what decodes, and sends its result if it is new."""
        begun = time.perf_counter()
        result = await self._service.run(function)
        self._compute += time.perf_counter() - begun
        if not result.text or (not result.final and result.text == self._shown):
            return
        self._shown = "" if result.final else result.text
        words = [{"word": word.text, "start": word.start, "end": word.end} for word in result.words]
        await send(
            self._socket,
            {
                "type": "final" if result.final else "partial",
                "text": result.text,
                "language": result.language,
                "start": round(result.start, 3),
                "end": round(result.end, 3),
                "words": words,
                "real_time_factor": round(self._compute / self.audio, 4),
            },
        )


async def _live(socket: WebSocket, service: Service) -> None:
    recognizer, audio, results = service.recognizer, Audio(16_000), _Results(socket, service)
    stream: Stream | None = recognizer.stream(recognizer.languages[0]) if len(recognizer.languages) == 1 else None
    async for message in messages(socket):
        if isinstance(message, bytes):
            if stream is None:
                raise PathwaysError(f"language: choose one of {' '.join(recognizer.languages)} first")
            for samples in audio.pieces(message):
                seconds = len(samples) / audio.rate
                results.audio += seconds
                service.audio_seconds += seconds
                await results.of(partial(advance, stream, samples, audio.rate))
            continue
        require_keys(message, ("language", "sample_rate", "encoding", "eof"))
        language = stream_language(service, message["language"]) if "language" in message else None
        if stream is not None:
            await results.of(stream.final)
        audio.set(message.get("sample_rate"), message.get("encoding"))
        if language is not None:
            if stream is None:
                stream = await service.run(partial(recognizer.stream, language))
            else:
                await service.run(partial(stream.switch, language))
            await send(socket, {"type": "language", "language": language})
        if message.get("eof"):
            return
