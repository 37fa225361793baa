"""What streams over WebSockets share: limits, messages, bytes as samples, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from asr_pathways.data.audio import Samples, check_rate
from asr_pathways.errors import PathwaysError
from asr_pathways.files import parse_json
from asr_pathways.serve.answers import busy
from asr_pathways.serve.service import Busy, Service

ENCODINGS = {"s16le": "<i2", "f32le": "<f4"}
"""Of samples."""

GATHERED = 1 << 20
"""Bytes of a stream that wait, about; its client is not read from while there are more."""

IDLE_TIME = 60.0
"""Seconds without a message after which a stream is closed."""

SEND_TIME = 10.0
"""Seconds in which a client must take a message."""

_DONE, _BAD, _SLOW, _FAILED = 1000, 1007, 1008, 1011  # codes of a close

Message = bytes | dict[str, Any]


class Audio:
    """Bytes as samples. What is there of a sample at the end of a message is its beginning.

    Attributes:
        rate: in Hz.
    """

    def __init__(self, rate: int) -> None:
        self.rate, self._encoding, self._left = rate, "s16le", b""

    def set(self, rate: object = None, encoding: object = None) -> None:
        """Of what comes next; None: as before.

        Raises:
            PathwaysError: for what is no rate or encoding.
        """
        if rate is not None:
            check_rate(rate)
            self.rate = int(rate)  # type: ignore[call-overload]
        if encoding is not None:
            if not isinstance(encoding, str) or encoding not in ENCODINGS:
                raise PathwaysError(f"encoding {encoding!r}: choose among {', '.join(ENCODINGS)}")
            self._encoding = encoding
        self._left = b""

    def pieces(self, data: bytes, seconds: float) -> list[Samples]:
        """Samples (n,), float32 in [-1, 1], of at most ``seconds`` each."""
        kind = np.dtype(ENCODINGS[self._encoding])
        data = self._left + data
        whole = len(data) // kind.itemsize * kind.itemsize
        samples = np.frombuffer(data[:whole], kind).astype(np.float32)
        if kind.kind == "i":
            samples /= 32768
        self._left = data[whole:]
        size = max(1, round(seconds * self.rate))
        return [samples[start : start + size] for start in range(0, len(samples), size)]


async def converse(socket: WebSocket, handler: Callable[[WebSocket, Service], Awaitable[None]]) -> None:
    """Accepts a stream if there is room, runs ``handler`` and closes it; a `PathwaysError` is sent before."""
    service: Service = socket.app.state.service
    try:
        with service.stream():
            await socket.accept()
            try:
                end = await _end(socket, service, handler)
            except Exception:  # which is logged
                await _close(socket, _FAILED, "the server failed: its log says how")
                raise
            await _close(socket, *end)
    except Busy as refused:
        await socket.send_denial_response(busy(refused))


async def _end(
    socket: WebSocket, service: Service, handler: Callable[[WebSocket, Service], Awaitable[None]]
) -> tuple[int, str]:
    """How a stream ends: the code and reason of its close."""
    try:
        await handler(socket, service)
    except WebSocketDisconnect:
        return _DONE, ""
    except asyncio.TimeoutError:
        return _SLOW, "too slow"
    except PathwaysError as raised:
        with suppress(WebSocketDisconnect, asyncio.TimeoutError):
            await send(socket, {"type": "error", "message": str(raised)})
        return _BAD, "see the error sent before"
    return _DONE, ""


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with suppress(WebSocketDisconnect, asyncio.TimeoutError, RuntimeError):  # it may be closed already
        await asyncio.wait_for(socket.close(code, reason), 1.0)


async def messages(socket: WebSocket) -> AsyncIterator[Message]:
    """Messages until the client leaves: bytes, or a JSON object.

    Raises:
        PathwaysError: for a text that is none.
        asyncio.TimeoutError: if none comes for `IDLE_TIME`.
    """
    while True:
        message = await asyncio.wait_for(socket.receive(), IDLE_TIME)
        if message["type"] == "websocket.disconnect":
            return
        if (data := message.get("bytes")) is not None:
            yield data
            continue
        try:
            parsed = parse_json(message["text"])
        except ValueError as raised:
            raise PathwaysError(f"not valid JSON: {raised}") from None
        if not isinstance(parsed, dict):
            raise PathwaysError("a message is samples or a JSON object")
        yield parsed


async def gathered(socket: WebSocket) -> AsyncIterator[Message]:
    """As `messages`, but samples that have come while nobody took them come as one."""
    waiting = deque[Message | BaseException | None]()
    size, changed = 0, asyncio.Event()

    async def receive() -> None:
        nonlocal size
        try:
            async for message in messages(socket):
                waiting.append(message)
                size += len(message)
                changed.set()
                while size > GATHERED:
                    await asyncio.sleep(0.01)
            waiting.append(None)
        except Exception as raised:
            waiting.append(raised)
        changed.set()

    receiver = asyncio.create_task(receive())
    try:
        while True:
            while not waiting:
                changed.clear()
                await changed.wait()
            message = waiting.popleft()
            if message is None:
                return
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, bytes):
                parts = [message]
                while waiting and isinstance(waiting[0], bytes):
                    parts.append(waiting.popleft())  # type: ignore[arg-type]
                message = b"".join(parts)
            size -= len(message)
            yield message
    finally:
        receiver.cancel()


async def send(socket: WebSocket, message: dict[str, Any]) -> None:
    """Sends JSON.

    Raises:
        asyncio.TimeoutError: if the client does not take it within `SEND_TIME`.
        WebSocketDisconnect: if the client has left, or the server has closed the stream of one that answers no ping.
    """
    try:
        await asyncio.wait_for(socket.send_text(json.dumps(message, ensure_ascii=False)), SEND_TIME)
    except RuntimeError:  # what uvicorn raises where it has closed the stream by itself
        raise WebSocketDisconnect(1006) from None


def require_keys(message: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises PathwaysError for a message with another key, or none."""
    if not message:
        raise PathwaysError(f"an empty message: it needs {', '.join(known)}")
    if unknown := sorted(set(message) - set(known)):
        raise PathwaysError(f"{unknown[0]!r} is no part of a message: choose among {', '.join(known)}")


def stream_language(service: Service, asked: object) -> str:
    """The code of a stream's language, or ``auto``; None: the model's only one, or ``auto``.

    Raises:
        PathwaysError: if it is none of the model's, or ``auto`` where the model tells none apart.
    """
    if asked is not None and not isinstance(asked, str):
        raise PathwaysError("language: a code is needed")
    return service.language(asked)
