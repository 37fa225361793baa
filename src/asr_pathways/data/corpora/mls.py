"""Multilingual LibriSpeech (MLS): read audiobooks in eight languages, FLAC or Opus at 16 kHz.

The text is taken as it is: lower case, no punctuation, numbers in words, as published results score it.

Lhotse's recipe of MLS looks each recording up in a list (lhotse 1.33: 8,000 utterances take 1.4 s, and the time
grows with their square: weeks for the 10.8 million of English), so transcripts are read here and Lhotse reads the
audio files' headers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_pathways.data.corpora.published import Published, Spoken, reading
from asr_pathways.data.corpus import SPLITS
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError


def _read(source: Path, folder: str, jobs: int) -> Iterator[Spoken]:
    from lhotse.parallel import parallel_map

    suffix = ".opus" if folder.endswith("_opus") else ".flac"
    for split in SPLITS:
        path = source / folder / split / "transcripts.txt"
        with reading(source / folder, MLS.name):
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            paths = [_audio(path, number, line, suffix) for number, line in enumerate(lines, 1)]
            recordings = parallel_map(_recording, paths, num_jobs=jobs)
            for line, recording in zip(track(lines, f"{folder} {split}"), recordings, strict=True):
                if recording is not None:
                    identifier, _, text = line.partition("\t")
                    yield Spoken(split, identifier, recording, text.strip(), identifier.split("_")[0])


def _audio(transcripts: Path, number: int, line: str, suffix: str) -> Path:
    """SPEAKER_BOOK_SEGMENT lies in audio/SPEAKER/BOOK."""
    identifier, tab, _ = line.partition("\t")
    parts = identifier.split("_")
    if not tab or len(parts) != 3:
        raise PathwaysError(f"{transcripts}: line {number}: not SPEAKER_BOOK_SEGMENT, a tab and a text")
    return transcripts.parent / "audio" / parts[0] / parts[1] / f"{identifier}{suffix}"


def _recording(path: Path) -> Any:
    """The Lhotse recording, or None where there is no such file."""
    from lhotse import Recording

    return (
        Recording.from_file(path, recording_id=path.stem, force_opus_sampling_rate=16_000) if path.is_file() else None
    )


MLS = Published(
    name="Multilingual LibriSpeech",
    licence="CC BY 4.0",
    attribution="Multilingual LibriSpeech (Pratap et al., Interspeech 2020), from audiobooks of LibriVox",
    download="at openslr.org/94, one archive a language, FLAC (mls_french) or Opus (mls_french_opus)",
    transcripts="{folder}/{split}/transcripts.txt",
    audio="{folder}/{split}/audio",
    read=_read,
    suffixes=("", "_opus"),
    folders={
        "de": "mls_german",
        "en": "mls_english",
        "es": "mls_spanish",
        "fr": "mls_french",
        "it": "mls_italian",
        "nl": "mls_dutch",
        "pl": "mls_polish",
        "pt": "mls_portuguese",
    },
)
