"""FLEURS: sentences of Wikipedia read aloud, about ten hours a language, WAV at 16 kHz; by Lhotse's recipe.

The text is the corpus's normalised field, ``transcription`` (lower case, no punctuation; digits stay digits), as
published results score it. A language's folder is named by code and region (``de_de``, ``cmn_hans_cn``): every folder
of the download that is named so is supported.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from asr_pathways.data.corpora.published import Published, Spoken, reading
from asr_pathways.data.corpus import SPLITS


def _read(source: Path, folder: str, jobs: int) -> Iterator[Spoken]:
    from lhotse.recipes.fleurs import prepare_single_fleurs_language

    with reading(source / folder, FLEURS.name), contextlib.redirect_stdout(io.StringIO()):
        manifests = prepare_single_fleurs_language(source / folder, language=folder, num_jobs=jobs)
    for split in SPLITS:
        recordings = {recording.id: recording for recording in manifests[split]["recordings"]}
        for supervision in manifests[split]["supervisions"]:
            # No speaker: the corpus names none, and the recipe counts the readings of a sentence instead.
            recording = recordings[supervision.recording_id]
            yield Spoken(split, supervision.id, recording, supervision.text, None)


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
