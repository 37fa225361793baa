"""``/vosk``: the protocol of Vosk's server: a reply to each message with samples, 16-bit, at 8 kHz if none is named."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from starlette.websockets import WebSocket

from asr_pathways.data.audio import Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.stream import Stream, StreamResult
from asr_pathways.serve.conversation import Audio, converse, messages, require_keys, send, stream_language
from asr_pathways.serve.service import Service


async def vosk(socket: WebSocket) -> None:
    """The endpoint; the language is a parameter of its address, since Vosk's clients name none."""
    await converse(socket, _vosk)


async def _vosk(socket: WebSocket, service: Service) -> None:
    audio = Audio(8_000)
    language = stream_language(service, socket.query_params.get("language"))
    stream = await service.run(partial(service.open, language))
    async for message in messages(socket):
        if isinstance(message, bytes):
            *others, last = audio.pieces(message, service.piece) or [np.zeros(0, np.float32)]
            service.audio_seconds += (sum(map(len, others)) + len(last)) / audio.rate
            for samples in others:
                await service.run(partial(_decode, stream, samples, audio.rate))
            result = await service.batches.advance(stream, last, audio.rate)
        elif "config" in message:
            if not isinstance(config := message["config"], dict):
                raise PathwaysError("config: an object is needed")
            await service.run(stream.final)
            audio.set(config.get("sample_rate"))
            continue
        else:
            require_keys(message, ("config", "eof", "reset"))
            result = await service.run(stream.final)
        await send(socket, _described(result))
        if isinstance(message, dict) and message.get("eof"):
            return


def _decode(stream: Stream, samples: Samples, rate: int) -> None:
    stream.accept(samples, rate)
    stream.partial()


def _described(result: StreamResult) -> dict[str, Any]:
    """As Vosk's; without its ``conf``, which this package's transducers do not have."""
    if not result.final:
        return {"partial": result.text}
    words = [{"word": word.text, "start": word.start, "end": word.end} for word in result.words]
    return {**({"result": words} if words else {}), "text": result.text}
