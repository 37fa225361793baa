"""The process that makes one language's synthetic speech: a JSON task on stdin, a JSON line per utterance out.

Run by :mod:`asr_pathways.data.corpora.synth`, one fresh process per language.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

import numpy as np

from asr_pathways.data.audio import SAMPLE_RATE, resample, to_int16, write_flac
from asr_pathways.data.corpora.espeak import Espeak
from asr_pathways.data.corpora.synth import MAX_SECONDS, MIN_SECONDS, utterances
from asr_pathways.errors import PathwaysError


def run(task_file: TextIO, answers: TextIO) -> None:
    """Synthesises the lines of a task until they, or its hours, are done."""
    task = json.load(task_file)
    language, hours = task["language"], task["hours"]
    folder = Path(task["folder"])
    espeak = Espeak()
    target = float("inf") if hours is None else hours * 3600  # seconds
    done = 0.0
    unfit = 0
    for item in utterances(task["lines"], language, task["seed"], 1 if hours is None else None, task["held_out"]):
        if done >= target:
            break
        raw = espeak.say(item.text, item.voice, rate=item.rate, pitch=item.pitch, range=item.range)
        samples = to_int16(resample(raw.astype(np.float32) / np.float32(32768), espeak.rate) * np.float32(item.gain))
        seconds = len(samples) / SAMPLE_RATE
        identifier = f"synth-{language}-{item.index:06d}"
        audio = f"audio/{language}/{identifier}.flac"
        if not MIN_SECONDS <= seconds <= MAX_SECONDS or not samples.any():
            samples = samples[:0]
            unfit += 1
            if unfit > 100 and unfit > 0.9 * item.index:
                raise PathwaysError(f"synth {language}: nearly every line is too short or too long to say")
        else:
            write_flac(folder / audio, samples)
            done += seconds
        row = {"id": identifier, "audio": audio, "split": item.split, "text": item.text, "voice": item.voice}
        answers.write(json.dumps({**row, "samples": len(samples)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    try:
        run(sys.stdin, sys.stdout)
    except (PathwaysError, OSError) as error:
        sys.exit(str(error))
