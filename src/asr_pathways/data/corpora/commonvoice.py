"""Mozilla Common Voice: sentences read by volunteers, MP3 at 32 or 48 kHz; by Lhotse's recipe.

The text has case and punctuation: it goes through :func:`asr_pathways.data.normalize.normalize`. Common Voice names a
language's folder by its code, some with a region (``sv-SE``): every folder of the download that is named so is known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from asr_pathways.data.corpora.published import Published, Spoken, reading
from asr_pathways.data.corpus import SPLITS
from asr_pathways.data.normalize import normalize
from asr_pathways.errors import PathwaysError

COLUMNS = ("client_id", "path", "sentence", "age", "gender", "accents", "variant")
"""What Lhotse's recipe reads; older releases lack some."""


def _read(source: Path, folder: str, jobs: int) -> Iterator[Spoken]:
    from lhotse.recipes.commonvoice import prepare_commonvoice as recipe

    for split in SPLITS:
        _check_header(source / folder / f"{split}.tsv")
    for split in SPLITS:
        with reading(source / folder, COMMON_VOICE.name), tempfile.TemporaryDirectory() as unused:
            manifests = recipe(source, unused, languages=[folder], splits=[split], num_jobs=jobs)[folder][split]
        recordings = {recording.id: recording for recording in manifests["recordings"]}
        for supervision in manifests["supervisions"]:
            recording = recordings[supervision.recording_id]
            yield Spoken(split, supervision.id, recording, supervision.text, supervision.speaker)


def _check_header(table: Path) -> None:
    with table.open(encoding="utf-8") as lines:
        header = lines.readline().rstrip("\n").split("\t")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise PathwaysError(f"{table}: its header has no column {', '.join(missing)}: download a newer release")


COMMON_VOICE = Published(
    name="Common Voice",
    licence="CC0-1.0",
    attribution="Common Voice, Mozilla and its volunteers",
    download="at commonvoice.mozilla.org/datasets, one archive a language and release (cv-corpus-...)",
    transcripts="{folder}/{split}.tsv",
    audio="{folder}/clips",
    read=_read,
    text=normalize,
    header=1,
    folders={code: code for code in ("cs", "de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru")},  # among others
    named_by_code=True,
)
