"""FLEURS: sentences of Wikipedia read aloud, about ten hours a language, WAV at 16 kHz.

The text is the corpus's normalised field, ``transcription`` (lower case, no punctuation; digits stay digits), as
published results score it; models that write cases and punctuation learn ``raw_transcription``. A language's folder is
named by code and region (``de_de``, ``cmn_hans_cn``): every folder of the download that is named so is supported.

Lhotse's recipe (1.33) ends at the first empty file and takes one that was cut short for whole, so tables are read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from asr_pathways.data.corpora.published import Published, Spoken, lengths_of, reading, table_lines
from asr_pathways.data.corpus import SPLITS


def _read(source: Path, folder: str, jobs: int) -> Iterator[Spoken]:
    for split in SPLITS:
        table = source / "metadata" / folder / f"{split}.tsv"
        with reading(source / folder, FLEURS.name):
            rows = []
            for number, line in enumerate(table_lines(table), 1):
                fields = line.strip().split("\t")
                if len(fields) == 7:
                    rows.append(fields)
                elif any(fields):
                    raise ValueError(
                        f"ValueError: {table.name}: line {number}: {len(fields)} columns where 7 should be"
                    )
            paths = [source / folder / split / f"{Path(row[1]).stem}.wav" for row in rows]
            readings: Counter[str] = Counter()  # of a sentence
            for row, path, length in zip(rows, paths, lengths_of(paths, f"{folder} {split}", jobs), strict=True):
                readings[row[0]] += 1
                # The corpus names no speakers.
                yield Spoken(split, f"{row[0]}_{readings[row[0]]}_{path.stem}", path, length, row[3], None, row[2])


_FOLDERS = "cs_cz de_de en_us es_419 fr_fr it_it nl_nl pl_pl pt_br ru_ru"  # some of about a hundred
FLEURS = Published(
    name="FLEURS",
    licence="CC BY 4.0",
    attribution="FLEURS (Conneau et al., SLT 2022), Google",
    download="at huggingface.co/datasets/google/fleurs, a table and an archive of audio a split",
    transcripts="metadata/{folder}/{split}.tsv",
    audio="{folder}/{split}",
    read=_read,
    folders={name[:2]: name for name in _FOLDERS.split()},
    named_by_code=True,
)
