"""Multilingual LibriSpeech (MLS): read audiobooks in eight languages, FLAC or Opus at 16 kHz.

The text stays as it is: lower case, no punctuation, numbers in words, as published results score it.

Lhotse's recipe of MLS looks each recording up in a list (lhotse 1.33: 8,000 utterances take 1.4 s, and the time
grows with their square: weeks for the 10.8 million of English), so transcripts are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asr_pathways.data.corpora.published import Published, Spoken, lengths_of, reading, table_lines
from asr_pathways.data.corpus import SPLITS
from asr_pathways.errors import PathwaysError


def _read(source: Path, folder: str, jobs: int) -> Iterator[Spoken]:
    suffix = ".opus" if folder.endswith("_opus") else ".flac"
    for split in SPLITS:
        path = source / folder / split / "transcripts.txt"
        with reading(source / folder, MLS.name):
            lines = [line for line in table_lines(path) if line.strip()]
            paths = [_audio(path, number, line, suffix) for number, line in enumerate(lines, 1)]
            for line, audio, length in zip(lines, paths, lengths_of(paths, f"{folder} {split}", jobs), strict=True):
                identifier, _, text = line.partition("\t")
                yield Spoken(split, identifier, audio, length, text.strip(), identifier.split("_")[0])


def _audio(transcripts: Path, number: int, line: str, suffix: str) -> Path:
    """SPEAKER_BOOK_SEGMENT is in audio/SPEAKER/BOOK."""
    identifier, tab, _ = line.partition("\t")
    parts = identifier.split("_")
    if not tab or len(parts) != 3:
        raise PathwaysError(f"{transcripts}: line {number}: not SPEAKER_BOOK_SEGMENT, a tab and a text")
    return transcripts.parent / "audio" / parts[0] / parts[1] / f"{identifier}{suffix}"


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
