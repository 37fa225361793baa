"""FLEURS: sentences of Wikipedia read aloud, about ten hours a language, WAV at 16 kHz; by Lhotse's recipe.

The text is the corpus's own normalised field, ``transcription`` (lower case, no punctuation; digits stay digits), as
published results score it. A language's folder is named by code and region (``de_de``, ``cmn_hans_cn``): every folder
of the download that is named so is known.
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


FLEURS = Published(
    name="FLEURS",
    licence="CC BY 4.0",
    attribution="FLEURS (Conneau et al., SLT 2022), Google",
    download="at huggingface.co/datasets/google/fleurs, a table and an archive of audio a split",
    transcripts="metadata/{folder}/{split}.tsv",
    audio="{folder}/{split}",
    read=_read,
    folders={  # some, of whatever download; it may have a hundred
        "cs": "cs_cz",
        "de": "de_de",
        "en": "en_us",
        "es": "es_419",
        "fr": "fr_fr",
        "it": "it_it",
        "nl": "nl_nl",
        "pl": "pl_pl",
        "pt": "pt_br",
        "ru": "ru_ru",
    },
    named_by_code=True,
)
