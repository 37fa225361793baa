"""Published corpora of many languages, from a folder that the user has downloaded and unpacked.

The audio stays where it is: the data folder refers to it by absolute paths, at the rate that it has. What is
special to a corpus (its layout, its reader, its text) lies in a module of its own, ``mls``, ``fleurs`` and
``commonvoice``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_pathways.data.corpora.manifest import MAX_SECONDS
from asr_pathways.data.corpus import SPLITS, About, build_corpus, cut_row, why_unfit
from asr_pathways.data.languages import find_language, is_language, plain_language
from asr_pathways.errors import PathwaysError


@dataclass(frozen=True)
class Spoken:
    """One utterance: a whole recording (a Lhotse ``Recording``) and what is said in it, as the corpus writes it."""

    split: str
    identifier: str
    recording: Any
    text: str
    speaker: str | None


@dataclass(frozen=True)
class Published:
    """A corpus as it is published; paths are relative to the downloaded folder, with {folder} and {split} in them."""

    name: str
    licence: str
    attribution: str
    download: str  # where to get it, and what to unpack
    transcripts: str
    audio: str
    read: Callable[[Path, str, int], Iterator[Spoken]]  # of (downloaded folder, language's folder, processes)
    text: Callable[[str, str], str] | None = None  # from text and our code to target and reference; None: as it is
    header: int = 0  # lines before the first utterance of a transcript
    suffixes: tuple[str, ...] = ("",)  # of a language's folder, the first that is there
    folders: Mapping[str, str] = field(default_factory=dict)  # our language codes, and the corpus's own folder names
    named_by_code: bool = False  # whether any other folder that a language's code names is of that language

    def about(self, language: str) -> About:
        """Name, licence and attribution, as ``corpus.json`` has them."""
        return {"name": f"{self.name}, {language}", "licence": self.licence, "attribution": self.attribution}


def prepare_published(
    out: Path, source: Path, corpus: Published, languages: Sequence[str] | None = None, jobs: int = 1
) -> dict[str, Counter[str]]:
    """Makes a data folder that refers to the audio of a published corpus, in the corpus's own splits.

    Utterances without words or audio are left out everywhere; those longer than 40 s, or with more than 30 letters
    a second, of train only: dev and test are scored whole.

    Args:
        out: the data folder to make.
        source: the folder that holds the corpus's language folders.
        corpus: which one.
        languages: our codes; None takes all that are there.
        jobs: processes that read the audio files' headers.

    Returns:
        For each language, how many utterances were left out and why.

    Raises:
        PathwaysError: if a language is unknown, or ``source`` lacks it or is laid out in another way.
    """
    if corpus.named_by_code:
        corpus = with_languages_of(source, corpus, languages)
    folders = _find(source, corpus, languages)
    dropped: dict[str, Counter[str]] = {}
    with build_corpus(out, [corpus.about(language) for language in folders]) as builder:
        for language, folder in folders.items():
            reasons = dropped[language] = Counter()
            seen: Counter[str] = Counter()
            for spoken in corpus.read(source, folder, jobs):
                seen[spoken.split] += 1
                text = corpus.text(spoken.text, language) if corpus.text else spoken.text.strip()
                reason = why_left_out(spoken, text)
                if reason:
                    reasons[reason] += 1
                    continue
                recording = spoken.recording
                audio = str(Path(recording.sources[0].source).absolute())
                identifier = f"{language}-{spoken.identifier}"
                rate, samples = int(recording.sampling_rate), int(recording.num_samples)
                row = cut_row(identifier, audio, samples, language, text, spoken.speaker, rate)
                builder.add_row(spoken.split, row)
            for split in SPLITS:
                listed = _lines(source / corpus.transcripts.format(folder=folder, split=split)) - corpus.header
                reasons["no audio file"] += max(0, listed - seen[split])
            dropped[language] = +reasons
            if not seen["train"]:
                raise PathwaysError(f"{source / folder}: no utterance of its train split has text and audio")
    return dropped


@contextmanager
def reading(folder: Path, corpus: str) -> Iterator[None]:
    """Turns whatever a reader of a corpus raises inside the block into one line that names the language's folder.

    Raises:
        PathwaysError: for any exception in the block.
    """
    try:
        yield
    except PathwaysError:
        raise
    except Exception as error:  # Lhotse's recipes raise anything from AssertionError to libsndfile's own
        detail = " ".join(str(error).split()) or "no details"
        raise PathwaysError(f"{folder}: not readable as {corpus}: {type(error).__name__}: {detail[:300]}") from error


def _find(source: Path, corpus: Published, languages: Sequence[str] | None) -> dict[str, str]:
    """The folder name of each language, in order; all files and folders that the corpus needs are there."""
    known = corpus.folders
    asked: list[str] = []
    for language in languages or known:
        code = find_language(language, known)
        if code is None:
            raise PathwaysError(f"no {language!r} in {corpus.name} here: choose among {', '.join(known)}")
        asked.append(code)
    if not source.is_dir():
        raise PathwaysError(f"{source}: no such folder: {_advice(corpus)}")
    folders = {}
    for language in dict.fromkeys(asked):
        names = [known[language] + suffix for suffix in corpus.suffixes]
        folder = next((name for name in names if (source / name).is_dir()), None)
        if folder is not None:
            folders[language] = folder
        elif languages:
            raise PathwaysError(f"{source}: no folder {' or '.join(names)} in it: {_advice(corpus)}")
    if not folders:
        raise PathwaysError(f"{source}: no language's folder ({', '.join(known.values())}) in it: {_advice(corpus)}")
    for folder in folders.values():
        for split in SPLITS:
            for pattern in (corpus.transcripts, corpus.audio):
                if not (source / pattern.format(folder=folder, split=split)).exists():
                    missing = pattern.format(folder=folder, split=split)
                    raise PathwaysError(f"{source}: no {missing} in it: {_advice(corpus)}")
    return folders


def _advice(corpus: Published) -> str:
    layout = " and ".join(
        pattern.format(folder=next(iter(corpus.folders.values())), split="train")
        for pattern in (corpus.transcripts, corpus.audio)
    )
    return f"expected such as {layout}; {corpus.name} ({corpus.licence}) is {corpus.download}"


def with_languages_of(source: Path, corpus: Published, languages: Sequence[str] | None) -> Published:
    """``corpus`` with the languages whose folders, named after a code, a download has, and those asked for.

    Of several folders of one language, such as zh-CN and zh-TW, each is a language of its own, by its whole name.
    """
    tables = source.glob(corpus.transcripts.format(folder="*", split="train"))
    names = sorted(name for path in tables if is_language(name := path.parent.name))
    codes = {name: plain_language(name) for name in names}
    shared = Counter(codes.values())
    named = {code if shared[code] == 1 else name: name for name, code in codes.items()}
    known = {**corpus.folders, **named}
    others = [one for one in languages or () if is_language(one) and find_language(one, known) is None]
    return replace(corpus, folders={**known, **dict(zip(others, others, strict=True))})


def why_left_out(spoken: Spoken, text: str) -> str | None:
    """What is wrong with an utterance; None: nothing. Dev and test are scored whole."""
    seconds = spoken.recording.num_samples / spoken.recording.sampling_rate
    return why_unfit(text, seconds, MAX_SECONDS) if spoken.split == "train" or not text else None


def _lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
