"""A request's form, received within limits of size and time, and its audio, read within limits of length."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from asr_pathways.data.audio import Samples, audio_length, read_audio
from asr_pathways.errors import PathwaysError, visible

T = TypeVar("T")

UPLOAD_TIME = 300.0
"""Seconds in which a request must have arrived."""

IDLE_TIME = 20.0
"""Seconds without a byte after which it is given up."""

LONGEST = 3600.0
"""Seconds of a recording. A small file may hold days of silence, and all of it is decoded in memory."""

MOST_VALUES = round(LONGEST * 48_000 * 2)
"""Samples of all channels of a recording, at its own rate: an hour in stereo."""

LINGER = 3.0
"""Seconds in which what is too much is received and dropped: most clients read no answer before they have sent all."""

_CLOSE = {"Connection": "close"}  # what is left of the request is not read
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def receive_form(request: Request, limit: int) -> FormData:
    """The form of a request; whoever has it closes it, which removes its temporary file.

    Raises:
        HTTPException: 413 if it has more than ``limit`` bytes, 408 if it comes too slowly, 400 if it is broken.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(400, "a form is needed: multipart/form-data with file=...")
    too_large = HTTPException(413, f"the request has more than {limit:,} bytes", _CLOSE)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise HTTPException(400, "Content-Length is no number", _CLOSE)
    received, receive = 0, request.receive
    if int(length) > limit:
        await _drop(receive, limit)
        raise too_large
    latest = time.monotonic() + UPLOAD_TIME

    async def limited() -> MutableMapping[str, Any]:
        nonlocal received
        try:
            message = await asyncio.wait_for(receive(), max(0.0, min(IDLE_TIME, latest - time.monotonic())))
        except asyncio.TimeoutError:
            raise HTTPException(408, "the request came too slowly", _CLOSE) from None
        received += len(message.get("body", b""))
        if received > limit:
            if message.get("more_body"):
                await _drop(receive, limit)
            raise too_large
        return message

    return await Request(request.scope, limited).form(max_files=1, max_fields=50)


async def _drop(receive: _Receive, most: int) -> None:
    """Receives the rest of a body, or ``most`` bytes of it."""

    async def rest() -> None:
        dropped, more = 0, True
        while more and dropped < most:
            message = await receive()
            dropped += len(message.get("body", b""))
            more = message.get("more_body", False)

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(rest(), LINGER)


async def while_connected(request: Request, job: Coroutine[Any, Any, T]) -> T:
    """The result of a job for a request that was received; the job is cancelled if the client leaves.

    Raises:
        ClientDisconnect: if it does.
    """

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, left = asyncio.ensure_future(job), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        left.cancel()


def read_upload(file: BinaryIO, name: str) -> Samples:
    """The samples (N,) at 16 kHz of an uploaded file, which errors call ``name``.

    Raises:
        PathwaysError: if it is not audio, or longer than `LONGEST` or `MOST_VALUES`.
    """
    import soundfile

    with _on_disk(file, visible(name)) as path:
        rate, length = audio_length(path)
        if length > LONGEST * rate:
            raise PathwaysError(f"{path}: {length / rate:.0f} s of audio: at most {LONGEST:.0f} s are recognised")
        if length * soundfile.info(str(path)).channels > MOST_VALUES:
            raise PathwaysError(f"{path}: more than {MOST_VALUES:,} samples in all channels: convert it to 16 kHz mono")
        return read_audio(path)


@contextmanager
def _on_disk(file: BinaryIO, name: str) -> Iterator[Path]:
    """A copy in a temporary folder; errors that are raised meanwhile call it ``name``."""
    with tempfile.TemporaryDirectory(prefix="asr-pathways-") as folder:
        path = Path(folder) / "audio"
        try:
            with path.open("wb") as copy:
                file.seek(0)
                shutil.copyfileobj(file, copy)
            yield path
        except PathwaysError as error:
            raise PathwaysError(str(error).replace(str(path), name)) from None
