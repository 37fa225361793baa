"""Tiny downloads in the layouts and codecs of the published corpora: sines instead of speech."""

from __future__ import annotations

import hashlib
from pathlib import Path

import soundfile

from asr_pathways.data.corpus import SPLITS
from tests.data.conftest import tone

SENTENCES = {
    "en": ["one two", "three", "four five six", "it's seven"],
    "fr": ["un deux", "trois", "quatre cinq six", "l'eau"],
}
COUNTS = {"train": 12, "dev": 2, "test": 2}
SECONDS = 0.5  # of the first utterance; each is a little longer than the one before


def sound(path: Path, index: int, rate: int, **codec: str) -> int:
    """Writes a tone to ``path``; returns its samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(SECONDS + 0.05 * index, 200 + 20 * index, rate)
    soundfile.write(path, samples, rate, **codec)
    return len(samples)


def make_mls(root: Path, folders: dict[str, str]) -> Path:
    """openslr.org/94: FLAC or Opus by speaker and book; ``folders`` says which language each folder holds."""
    for folder, language in folders.items():
        opus = folder.endswith("_opus")
        codec = {"format": "OGG", "subtype": "OPUS"} if opus else {}
        (root / folder).mkdir(parents=True)
        (root / folder / "metainfo.txt").write_text(
            "SPEAKER | GENDER | PARTITION | MINUTES | BOOK ID\n10 | F | train\n"
        )
        for split in SPLITS:
            lines = []
            for index in range(COUNTS[split]):
                name = f"10_{200 + SPLITS.index(split)}_{index:06d}"
                audio = root / folder / split / "audio" / "10" / name.split("_")[1] / name
                sound(audio.with_suffix(".opus" if opus else ".flac"), index, 16_000, **codec)
                lines.append(f"{name}\t{SENTENCES[language][index % 4]}\n")
            (root / folder / split / "transcripts.txt").write_text("".join(lines), encoding="utf-8")
            (root / folder / split / "segments.txt").write_text("10_200_000000\thttp://archive.org/a.mp3\t0.0\t1.0\n")
    return root


def make_fleurs(root: Path, folders: dict[str, str]) -> Path:
    """FLEURS as `lhotse download fleurs` leaves it: WAV by split, tables of seven columns in metadata."""
    for folder, language in folders.items():
        for split in SPLITS:
            lines = []
            for index in range(COUNTS[split]):
                text = SENTENCES[language][index % 4]
                name = f"{SPLITS.index(split)}{index:015d}{folder}.wav"
                samples = sound(root / folder / split / name, index, 16_000)
                spelt = " | ".join(" ".join(word) for word in text.split()) + " |"
                fields = (str(1500 + index // 2), name, f"{text.capitalize()}.", text, spelt, str(samples), "FEMALE")
                lines.append("\t".join(fields) + "\n")
            (root / "metadata" / folder).mkdir(parents=True, exist_ok=True)
            (root / "metadata" / folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return root


def make_commonvoice(root: Path, folders: dict[str, str]) -> Path:
    """A release of Common Voice: MP3 in clips, one table a split; train has a row without words, one without clip."""
    columns = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant"
    for folder, language in folders.items():
        for split in SPLITS:
            lines = [columns.replace(" ", "\t") + "\tlocale\tsegment\n"]
            texts = [f'"{text.capitalize()}" !' for text in SENTENCES[language]]
            for index in range(COUNTS[split] + 2 * (split == "train")):
                name = f"common_voice_{folder}_{SPLITS.index(split)}{index:07d}.mp3"
                text = "..." if index == COUNTS[split] else texts[index % 4]
                if index <= COUNTS[split]:
                    sound(root / folder / "clips" / name, index, 48_000, format="MP3", subtype="MPEG_LAYER_III")
                speaker = hashlib.sha512(f"{split}{index // 3}".encode()).hexdigest()
                lines.append(f"{speaker}\t{name}\t{index:064d}\t{text}\t\t2\t0\t\t\t\t\t{folder}\t\n")
            (root / folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return root
