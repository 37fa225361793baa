"""Wyoming, the protocol of Home Assistant's voice assistants (github.com/OHF-Voice/wyoming), over TCP.

A recording comes in chunks, and its transcript goes back; of a model that streams, what is stable of it before its end.
"""

from __future__ import annotations

import asyncio
import io
import socket
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_read_event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from asr_pathways.data.audio import SAMPLE_RATE, Samples
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.auto_stream import AUTO
from asr_pathways.runtime.results import Result
from asr_pathways.runtime.stream import Stream
from asr_pathways.serve.conversation import IDLE_TIME, SEND_TIME, stream_language
from asr_pathways.serve.service import Busy, Service
from asr_pathways.serve.upload import LINGER, read_upload

MESSAGE = 1 << 20
"""Bytes of an event's payload, at most."""

RECORDING = 20_000_000
"""Bytes of a recording: ten minutes of 16 bits at 16 kHz."""

_KINDS = (Describe, Ping, Transcribe, AudioStart, AudioChunk, AudioStop)


@asynccontextmanager
async def wyoming(service: Service, listener: socket.socket) -> AsyncIterator[None]:
    """Serves at a socket that listens, while the context lasts."""
    clients = set[asyncio.Task[None]]()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            await _Client(service, reader, writer).run()
        finally:
            clients.discard(task)
            writer.close()

    server = await asyncio.start_server(client, sock=listener, limit=1 << 16)
    try:
        yield
    finally:
        server.close()
        for task in clients:
            task.cancel()


class _Client:
    """One connection: any number of recordings, one after another."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service, self._reader, self._writer = service, reader, writer
        self._language: object = None
        self._format = (SAMPLE_RATE, 2, 1)  # rate, bytes a sample, channels
        self._begin()

    def _begin(self) -> None:
        """A new recording."""
        self._audio = bytearray()
        self._decoded = 0  # bytes of it
        self._stream: Stream | None = None
        self._sent: str | None = None  # of the transcript; None: it has not begun

    async def run(self) -> None:
        """Until the client leaves, or sends what is no event."""
        with suppress(OSError, asyncio.TimeoutError):  # the client has left, or takes no answer
            try:
                with self._service.stream():
                    while (event := await self._next()) is not None:
                        await self._answer(event)
            except (PathwaysError, Busy) as refused:
                await self._send(Error(str(refused)))
                await asyncio.wait_for(self._drop(), LINGER)

    async def _drop(self) -> None:
        """Receives what else is sent: most clients read no answer before they have sent all."""
        self._writer.write_eof()
        while await self._reader.read(1 << 16):
            pass

    async def _next(self) -> Event | None:
        """What was sent; None if the client has left, or sent what is no event."""
        try:
            return await async_read_event(_Bounded(self._reader))
        except (AttributeError, EOFError, KeyError, RecursionError, TypeError):  # it returns None for a ValueError
            return None

    async def _answer(self, event: Event) -> None:
        """Does what an event asks for; one that is unknown asks for nothing."""
        kind = next((kind for kind in _KINDS if kind.is_type(event.type)), None)
        try:
            known = None if kind is None else kind.from_event(event)
        except (AttributeError, KeyError, TypeError):
            raise PathwaysError(f"{event.type}: its data are incomplete") from None
        if isinstance(known, Describe):
            await self._send(self._info())
        elif isinstance(known, Ping):
            await self._send(Pong(known.text))
        elif isinstance(known, Transcribe):
            self._language = known.language
        elif isinstance(known, AudioStart):
            self._begin()
        elif isinstance(known, AudioChunk):
            spoken = (known.rate, known.width, known.channels)
            if self._audio and spoken != self._format:
                raise PathwaysError(f"samples of {_described(*spoken)} after others of {_described(*self._format)}")
            self._format = spoken
            self._audio += known.audio
            if len(self._audio) > RECORDING:
                raise PathwaysError(f"the recording has more than {RECORDING:,} bytes")
            if self._service.recognizer.streams and (language := self._asked()) != AUTO:
                await self._grow(await self._stable(language), language)
        elif isinstance(known, AudioStop):
            transcript = await self._transcript()
            if self._service.recognizer.streams:
                await self._grow(transcript.text, str(transcript.language))
            await self._send(transcript)
            if self._sent is not None:
                await self._send(TranscriptStop())
            self._begin()

    async def _stable(self, language: str) -> str:
        """How the text of what has come begins, and will begin."""
        import soundfile

        rate, width, channels = self._format
        file = _as_wav(bytes(self._audio[self._decoded :]), rate, width, channels)
        try:
            frames = soundfile.read(file, dtype="float32", always_2d=True)[0]
        except soundfile.LibsndfileError as error:
            raise PathwaysError(f"the recording: not readable as audio: {error}") from None
        self._decoded += len(frames) * width * channels
        if self._stream is None:
            self._stream = await self._service.run(partial(self._service.open, language))
        return await self._service.run(partial(_accepted, self._stream, frames.mean(axis=1), rate))

    async def _grow(self, text: str, language: str) -> None:
        """Sends what is new of a transcript."""
        if self._sent is None and text:
            await self._send(TranscriptStart(language=language))
            self._sent = ""
        if self._sent is not None and text != self._sent and text.startswith(self._sent):
            await self._send(TranscriptChunk(text[len(self._sent) :]))
            self._sent = text

    async def _transcript(self) -> Transcript:
        service, audio, language = self._service, bytes(self._audio), self._asked()

        def transcribed() -> Result:
            samples = read_upload(_as_wav(audio, *self._format), "the recording")
            return service.recognizer.transcribe(samples, language=language)

        result = await service.recording(transcribed)
        service.audio_seconds += result.duration
        return Transcript(result.text, language=result.language)

    def _asked(self) -> str:
        return stream_language(self._service, self._language)

    def _info(self) -> Info:
        about = {
            "attribution": Attribution(name="asr-pathways", url=""),
            "installed": True,
            "description": "Speech recognition with a sub-network for each language",
            "version": None,
        }
        model = AsrModel(name=self._service.name, languages=list(self._service.recognizer.languages), **about)
        streams = self._service.recognizer.streams
        return Info(asr=[AsrProgram("asr-pathways", models=[model], supports_transcript_streaming=streams, **about)])

    async def _send(self, event: Eventable) -> None:
        await asyncio.wait_for(async_write_event(event.event(), self._writer), SEND_TIME)


class _Bounded:
    """What `async_read_event` reads from: within limits of size and time."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readline(self) -> bytes:
        return await asyncio.wait_for(self._reader.readline(), IDLE_TIME)

    async def readexactly(self, count: int) -> bytes:
        if count > MESSAGE:
            raise ValueError("too long")
        return await asyncio.wait_for(self._reader.readexactly(count), IDLE_TIME)


def _accepted(stream: Stream, samples: Samples, rate: int) -> str:
    stream.accept(samples, rate)
    return stream.partial().stable


def _as_wav(audio: bytes, rate: int, width: int, channels: int) -> io.BytesIO:
    """Raw samples as a WAV file.

    Raises:
        PathwaysError: for a format that WAV has not.
    """
    file = io.BytesIO()
    try:
        with wave.open(file, "wb") as written:
            written.setparams((channels, width, rate, 0, "NONE", "not compressed"))
            written.writeframes(audio[: len(audio) // (width * channels) * width * channels])
    except (wave.Error, ArithmeticError, TypeError, ValueError) as error:
        raise PathwaysError(f"samples of {_described(rate, width, channels)}: {error}") from None
    file.seek(0)
    return file


def _described(rate: int, width: int, channels: int) -> str:
    return f"{width!r} bytes in {channels!r} channels at {rate!r} Hz"
