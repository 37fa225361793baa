"""What a server of live captions can do, written as one object of a JSON file for each part and model.

python -m benchmarks.serve words openai/whisper-base data/prompts --out results/serve.json
python -m benchmarks.serve streams models/tiny data/prompts 1,16,64 --out results/serve.json
python -m benchmarks.serve connections models/tiny data/prompts --out results/serve.json
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.request import Request, urlopen

import numpy as np
import psutil
import soundfile
import typer
from websockets.asyncio.client import ClientConnection, connect

from asr_pathways.data.audio import SAMPLE_RATE, Samples, to_int16
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.voice_activity import speech_segments
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.files import write_json
from asr_pathways.model_folder.decode import pair
from asr_pathways.runtime import local_agreement
from asr_pathways.runtime.layers import processor
from asr_pathways.runtime.recognizer import Recognizer

PIECE = 0.1
"""Seconds of a message, as the page sends them."""

SILENCE = 1.5
"""Seconds between two utterances: enough to end a segment."""

app = typer.Typer(add_completion=False)

Model = Annotated[Path, typer.Argument()]
Data = Annotated[Path, typer.Argument()]
Out = Annotated[Path | None, typer.Option(help="A JSON file that this result is put into.")]


@dataclass(frozen=True)
class Spoken:
    """Samples at 16 kHz of an utterance, silence after it, where its speech ends (s), and its text."""

    name: str
    samples: Samples
    end: float
    text: str


def utterances(data: Path, language: str, count: int) -> list[Spoken]:
    """The longest of the test split are left out with the shortest: a caller says a sentence."""
    found = []
    for cut in load_cuts(data, "test", (language,)):
        samples = read_cut(cut)
        speech = speech_segments(samples, padding=0)
        if speech and 1.5 < len(samples) / SAMPLE_RATE < 12:
            silence = np.zeros(round(SILENCE * SAMPLE_RATE), np.float32)
            text = cut.supervisions[0].text
            found.append(Spoken(cut.id, np.concatenate([samples, silence]), speech[-1][1] / SAMPLE_RATE, text))
    random.Random(0).shuffle(found)
    return found[:count]


@app.command()
def words(
    model: Model,
    data: Data,
    language: str = "fr",
    count: int = 20,
    steps: Annotated[str, typer.Option(help="Seconds of new speech between two decodings.")] = "1",
    out: Out = None,
) -> None:
    """From the end of a word until it is shown as final, and what decoding again costs, one stream on one thread.

    Time passes as the samples say; decoding takes what it takes, and samples that come meanwhile wait.
    """
    recognizer = Recognizer(model, language)
    spoken = utterances(data, language, count)
    recognizer.transcribe(spoken[0].samples)
    whole = [recognizer.transcribe(one.samples).text for one in spoken]
    begun = time.perf_counter()
    for one in spoken:
        recognizer.transcribe(one.samples)
    once = time.perf_counter() - begun
    audio = sum(len(one.samples) for one in spoken) / SAMPLE_RATE
    rows = []
    for step in map(float, steps.split(",")):
        local_agreement.STEP = step
        latencies, computing, texts = list[float](), 0.0, list[str]()
        for one in spoken:
            found, seconds, text = _shown(recognizer, one.samples)
            latencies += found
            computing += seconds
            texts.append(text)
        rows.append(
            {
                "step_seconds": step,
                **_quantiles(latencies),
                "real_time_factor": round(computing / audio, 3),
                "wer": _wer(spoken, texts, language, recognizer.free_text),
            }
        )
    result = {
        "model": model.name,
        "language": language,
        "utterances": len(spoken),
        "seconds": round(audio, 1),
        "cpu": _cpu(),
        "threads": 1,
        "transcribed_at_once": {
            "real_time_factor": round(once / audio, 3),
            "wer": _wer(spoken, whole, language, recognizer.free_text),
        },
        "rows": rows,
    }
    _write(out, f"words {model.name}", result)


def _shown(recognizer: Recognizer, samples: Samples) -> tuple[list[float], float, str]:
    """The latency of each word (s), the seconds of computing, and the text."""
    stream, size = recognizer.stream(), round(PIECE * SAMPLE_RATE)
    done, place, computing = 0.0, 0, 0.0
    shown = list[float]()  # when each letter became final
    latencies, texts = list[float](), list[str]()
    while place < len(samples):
        arrived = max(place + size, int(done * SAMPLE_RATE) // size * size)
        piece, place = samples[place:arrived], min(arrived, len(samples))
        begun = time.perf_counter()
        stream.accept(piece)
        result = stream.partial()
        if (result.text and stream.endpoint()) or place == len(samples):
            result = stream.final()
        seconds = time.perf_counter() - begun
        computing += seconds
        done = max(done, place / SAMPLE_RATE) + seconds
        shown += [done] * (len(_letters(result.stable)) - len(shown))
        if result.final:
            texts.append(result.text)
            last = -1  # letter of a word
            for word in result.words:
                last += len(_letters(word.text))
                latencies.append(shown[last] - word.end)
            shown = []
    return latencies, computing, " ".join(filter(None, texts))


def _letters(text: str) -> str:
    return "".join(text.split())


def _wer(spoken: Sequence[Spoken], texts: Sequence[str], language: str, free_text: bool) -> float:
    pairs: list[Utterance] = [
        pair(one.name, language, one.text, text, free_text) for one, text in zip(spoken, texts, strict=True)
    ]
    return round(score(pairs).languages[0].wer.rate, 4)


@app.command()
def batches(
    model: Model, data: Data, counts: Annotated[str, typer.Argument()], language: str = "fr", out: Out = None
) -> None:
    """Seconds of audio decoded in a second, of streams of a model that streams: one after another, and in a batch."""
    recognizer = Recognizer(model, language)
    chunk, pieces = round(0.64 * SAMPLE_RATE), 6
    sound = np.concatenate([one.samples for one in utterances(data, language, 8)])[: chunk * pieces]
    rows = []
    for count in map(int, counts.split(",")):
        speed: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(5):
            for together, found in speed.items():
                calls = [recognizer.stream() for _ in range(count)]
                begun = time.perf_counter()
                for start in range(0, len(sound), chunk):
                    for stream in calls:
                        stream.accept(sound[start : start + chunk])
                    for group in [calls] if together else [[stream] for stream in calls]:
                        recognizer.decode(group)
                found.append(count * len(sound) / SAMPLE_RATE / (time.perf_counter() - begun))
        alone, batch = (statistics.median(speed[together]) for together in (False, True))
        rows.append(
            {"streams": count, "one_by_one": round(alone), "batch": round(batch), "ratio": round(batch / alone, 2)}
        )
    _write(out, f"batches {model.name}", {"model": model.name, "cpu": _cpu(), "threads": 1, "rows": rows})


@contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own: host and port, and the process."""
    command = [sys.executable, "-m", "asr_pathways", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.match(r"http://(\S+):", line):
                    break
            else:
                raise SystemExit(f"the server did not start: {process.wait()}")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield found[1], psutil.Process(process.pid)
        finally:
            process.terminate()


@app.command()
def streams(
    model: Model,
    data: Data,
    counts: Annotated[str, typer.Argument(help="Streams at once, such as 1,4,16.")],
    languages: str = "fr",
    seconds: float = 15,
    threads: int = 2,
    out: Out = None,
) -> None:
    """From the end of speech to the final result, of streams at once in real time, by one server; the clients are one
    process beside it.
    """
    codes = languages.split(",")
    spoken = {code: utterances(data, code, 20) for code in codes}
    most = max(map(int, counts.split(",")))
    rows = []
    with serving(model, "--threads", str(threads), "--max-streams", str(most + len(codes))) as (host, process):
        for code in codes:  # pathways are made ready
            asyncio.run(_talk(host, code, spoken[code][:1], 0.0, 1.0))
        for count in map(int, counts.split(",")):
            before, begun = sum(process.cpu_times()[:2]), time.perf_counter()
            found = asyncio.run(_talks(host, [codes[n % len(codes)] for n in range(count)], spoken, seconds))
            cores = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - begun)
            ended = [latency for latency in found if latency is not None]
            rows.append(
                {
                    "streams": count,
                    **_quantiles(ended),
                    "utterances": len(found),
                    "not_ended": len(found) - len(ended),
                    "cores": round(cores, 2),
                }
            )
            typer.echo(json.dumps(rows[-1]), err=True)
    result = {"model": model.name, "languages": codes, "cpu": _cpu(), "threads": threads, "rows": rows}
    _write(out, f"streams {model.name}", result)


async def _talks(
    host: str, codes: Sequence[str], spoken: dict[str, list[Spoken]], seconds: float
) -> list[float | None]:
    draw = random.Random(len(codes))
    jobs = [
        _talk(host, code, draw.sample(spoken[code], len(spoken[code])), draw.uniform(0, 2), seconds) for code in codes
    ]
    return [latency for latencies in await asyncio.gather(*jobs) for latency in latencies]


async def _talk(
    host: str, code: str, spoken: Sequence[Spoken], wait: float, seconds: float, late: float = 3.0
) -> list[float | None]:
    """Says utterances in real time; the seconds from the end of each one's speech to its final result, None if it
    has none before the next begins.
    """
    await asyncio.sleep(wait)
    finals = list[tuple[float, float]]()  # when it came, and the end of what it is of, in seconds of the stream

    async def listen(ws: ClientConnection) -> None:
        with suppress(Exception):
            async for text in ws:
                message = json.loads(text)
                if message["type"] == "final":
                    finals.append((time.perf_counter(), message["end"]))

    async with connect(f"ws://{host}/v1/stream", compression=None, open_timeout=60) as ws:
        await ws.send(json.dumps({"language": code}))
        listener = asyncio.create_task(listen(ws))
        begun, sent = time.perf_counter(), 0.0
        ends = list[tuple[float, float]]()  # of speech, and of the silence after it
        for one in spoken:
            if sent > seconds:
                break
            ends.append((sent + one.end, sent + len(one.samples) / SAMPLE_RATE))
            data = to_int16(one.samples)
            for piece in np.split(data, range(round(PIECE * SAMPLE_RATE), len(data), round(PIECE * SAMPLE_RATE))):
                sent += len(piece) / SAMPLE_RATE
                await asyncio.sleep(max(0.0, begun + sent - time.perf_counter()))
                await ws.send(piece.tobytes())
        await asyncio.sleep(late)  # for those that are late
        listener.cancel()
    latencies = list[float | None]()
    for speech, silence in ends:
        came = [when for when, end in finals if speech - 0.2 <= end <= silence + 0.2]
        latencies.append(min(came) - begun - speech if came else None)
    return latencies


@app.command()
def connections(
    model: Model, data: Data, language: str = "fr", count: int = 1000, rounds: int = 3, out: Out = None
) -> None:
    """Opens streams at once, cuts half of them at random moments and sends garbage on others: memory, and whether the
    server has the same words after it. The server has this process's PYTHONMALLOC.
    """
    allocator = os.environ.get("PYTHONMALLOC", "pymalloc")
    one = utterances(data, language, 1)[0]
    with serving(model, "--threads", "2", "--max-streams", str(count)) as (host, process):
        wanted = _words(host, one, language)
        asyncio.run(_opened(host, one, language, min(count, 64), 2, 0, within=0.1))  # what batches need once is there
        memory = [_settled(host, process)]
        for number in range(rounds):
            asyncio.run(_opened(host, one, language, count, count // 10, number))
            memory.append(_settled(host, process))
            assert _words(host, one, language) == wanted, "the server answers otherwise"
        peak = process.memory_full_info()
    result = {
        "model": model.name,
        "allocator": allocator,
        "connections": count,
        "cut": count // 2,
        "garbage": count // 10,
        "mib_before": round(memory[0], 1),
        "mib_after_each_round": [round(one, 1) for one in memory[1:]],
        "growth_by_the_first_round": round(memory[1] / memory[0] - 1, 4),
        "growth_after_it": round(memory[-1] / memory[1] - 1, 4),
        "uss_mib": round(peak.uss / 2**20, 1),
        "same_words": True,
    }
    _write(out, f"connections {model.name} {allocator}", result)


def _words(host: str, one: Spoken, language: str) -> str:
    """By a request of its own."""
    file = io.BytesIO()
    soundfile.write(file, one.samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    fields = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, value)
        for name, value in ((b"language", language.encode()), (b"response_format", b"text"))
    )
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = fields + head + file.getvalue() + b"\r\n--x--\r\n"
    address = f"http://{host}/v1/audio/transcriptions"
    request = Request(address, body, {"Content-Type": "multipart/form-data; boundary=x"})
    with urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


async def _opened(
    host: str, one: Spoken, language: str, count: int, garbage: int, seed: int, within: float = 3.0
) -> None:
    draw = random.Random(seed)
    pcm = to_int16(one.samples).tobytes()[: 2 * SAMPLE_RATE]
    ready, go = asyncio.Semaphore(0), asyncio.Event()

    async def client(kind: str, moment: float, data: bytes) -> None:
        async with connect(f"ws://{host}/v1/stream", compression=None, open_timeout=120, ping_interval=None) as ws:
            await ws.send(json.dumps({"language": language}))
            ready.release()
            await go.wait()  # all are open
            await asyncio.sleep(moment)
            with suppress(Exception):
                if kind == "garbage":
                    await ws.send(data if data[0] % 2 else data.hex())
                else:
                    await ws.send(pcm[: 2 * draw.randrange(1, len(pcm) // 2)])
                if kind == "cut":
                    ws.transport.abort()
                    return
                await ws.send('{"eof": 1}')
                async for _ in ws:
                    pass

    kinds = ["cut"] * (count // 2) + ["garbage"] * garbage
    kinds += ["whole"] * (count - len(kinds))
    draw.shuffle(kinds)
    jobs = [
        asyncio.create_task(client(kind, draw.uniform(0, within), draw.randbytes(draw.randrange(1, 3000))))
        for kind in kinds
    ]
    for _ in jobs:
        await ready.acquire()
    go.set()
    await asyncio.gather(*jobs)


def _settled(host: str, process: psutil.Process) -> float:
    """MiB of the server once no stream is open."""
    while True:
        with urlopen(f"http://{host}/metrics", timeout=60) as answer:
            if "asr_pathways_streams 0\n" in answer.read().decode():
                break
        time.sleep(0.1)
    time.sleep(0.5)
    return float(process.memory_info().rss / 2**20)


def _quantiles(latencies: Sequence[float]) -> dict[str, float]:
    if len(latencies) < 2:
        return {"p50": round(latencies[0], 2), "p95": round(latencies[0], 2)} if latencies else {}
    cuts = statistics.quantiles(latencies, n=20, method="inclusive")
    return {"p50": round(statistics.median(latencies), 2), "p95": round(cuts[-1], 2)}


def _cpu() -> str:
    return f"{processor()[0]}, {len(os.sched_getaffinity(0))} processors"


def _write(out: Path | None, name: str, result: dict[str, Any]) -> None:
    typer.echo(json.dumps(result, indent=1))
    if out is not None:
        known = json.loads(out.read_text()) if out.exists() else {}
        write_json(out, dict(sorted({**known, name: result}.items())))


if __name__ == "__main__":
    app()
