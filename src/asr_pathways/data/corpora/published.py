"""Published corpora of many languages, from a folder that the user has downloaded and unpacked.

The audio stays where it is: the data folder refers to it by absolute paths, at the rate that it has. What is
special to a corpus (its layout, its reader, its text) is in its module: ``mls``, ``fleurs``, ``commonvoice``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr_pathways.data.audio import Truncated, audio_length
from asr_pathways.data.corpora.manifest import MAX_SECONDS
from asr_pathways.data.corpus import SPLITS, About, build_corpus, cut_row, why_unfit
from asr_pathways.data.languages import find_language, is_language, plain_language
from asr_pathways.data.normalize import written_text
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError, reason_of


@dataclass(frozen=True)
class Spoken:
    """One utterance: a whole audio file and its text, as the corpus writes it; ``length`` is what `length_of` says.

    ``written`` is the text with case and punctuation, where the corpus has it.
    """

    split: str
    identifier: str
    audio: Path
    length: tuple[int, int] | str
    text: str
    speaker: str | None
    written: str = ""


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
    suffixes: tuple[str, ...] = ("",)  # of a language's folder, the first that is there
    folders: Mapping[str, str] = field(default_factory=dict)  # our language codes, and the corpus's folder names
    named_by_code: bool = False  # whether any other folder that a language's code names is of that language

    def about(self, language: str) -> About:
        """Name, licence and attribution, as ``corpus.json`` has them."""
        return {"name": f"{self.name}, {language}", "licence": self.licence, "attribution": self.attribution}


def prepare_published(
    out: Path, source: Path, corpus: Published, languages: Sequence[str] | None = None, jobs: int = 1
) -> dict[str, Counter[str]]:
    """Makes a data folder that refers to the audio of a published corpus, in the corpus's splits.

    Utterances without words or audio are left out everywhere; those longer than 40 s, or with more than 30 letters
    a second, of train only: dev and test are scored whole.

    Args:
        out: the data folder to make.
        source: the folder that holds the corpus's language folders.
        corpus: which one.
        languages: our codes; None: all in ``source``.
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
            trained = False
            for spoken in corpus.read(source, folder, jobs):
                if isinstance(spoken.length, str):
                    reasons[spoken.length] += 1
                    continue
                trained |= spoken.split == "train"
                text = corpus.text(spoken.text, language) if corpus.text else spoken.text.strip()
                rate, samples = spoken.length
                reason = why_left_out(spoken.split, text, samples / rate)
                if reason:
                    reasons[reason] += 1
                    continue
                identifier, audio = f"{language}-{spoken.identifier}", str(spoken.audio.absolute())
                written = written_text(spoken.written, language)
                row = cut_row(identifier, audio, samples, language, text, spoken.speaker, rate, written=written)
                builder.add_row(spoken.split, row)
            if not trained:
                raise PathwaysError(f"{source / folder}: no utterance of its train split has text and audio")
    return dropped


def length_of(path: Path) -> tuple[int, int] | str:
    """Rate (Hz) and samples of an audio file, or why its utterance is left out.

    Raises:
        PathwaysError: if it is not audio.
    """
    if not path.is_file():
        return "no audio file"
    if path.stat().st_size == 0:
        return "empty audio file"
    try:
        rate, samples = audio_length(path)
    except Truncated:
        return "audio cut short"
    return (rate, samples) if samples else "empty audio file"


def lengths_of(paths: Sequence[Path], label: str, jobs: int) -> Iterator[tuple[int, int] | str]:
    """`length_of` each of ``paths``, with a progress bar, by ``jobs`` processes."""
    from lhotse.parallel import parallel_map

    lengths = map(length_of, paths) if jobs == 1 else parallel_map(length_of, paths, num_jobs=jobs)
    for _, length in zip(track(paths, label), lengths, strict=True):
        yield length


@contextmanager
def reading(folder: Path, corpus: str) -> Iterator[None]:
    """Raises any exception inside the block as a PathwaysError, one line that names the language's folder."""
    try:
        yield
    except Exception as error:
        raise PathwaysError(f"{folder}: not readable as {corpus}: {reason_of(error):.300}") from error


def _find(source: Path, corpus: Published, languages: Sequence[str] | None) -> dict[str, str]:
    """The folder name of each language, in order; all files and folders that the corpus needs exist."""
    known = corpus.folders
    codes: list[str] = []
    for language in languages or known:
        code = find_language(language, known)
        if code is None:
            raise PathwaysError(f"no {language!r} in {corpus.name} here: choose among {', '.join(known)}")
        codes.append(code)
    if not source.is_dir():
        raise PathwaysError(f"{source}: no such folder: {_advice(corpus)}")
    folders = {}
    for language in dict.fromkeys(codes):
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
                path = pattern.format(folder=folder, split=split)
                if not (source / path).exists():
                    raise PathwaysError(f"{source}: no {path} in it: {_advice(corpus)}")
    return folders


def _advice(corpus: Published) -> str:
    example = {"folder": next(iter(corpus.folders.values())), "split": "train"}
    layout = f"{corpus.transcripts.format(**example)} and {corpus.audio.format(**example)}"
    return f"expected such as {layout}; {corpus.name} ({corpus.licence}) is {corpus.download}"


def with_languages_of(source: Path, corpus: Published, languages: Sequence[str] | None) -> Published:
    """``corpus`` with the languages whose folders, named after a code, a download has, and those asked for.

    Of several folders of one language, such as zh-CN and zh-TW, each is a separate language, by its whole name.
    """
    tables = source.glob(corpus.transcripts.format(folder="*", split="train"))
    names = sorted(name for path in tables if is_language(name := path.parent.name))
    codes = {name: plain_language(name) for name in names}
    shared = Counter(codes.values())
    named = {code if shared[code] == 1 else name: name for name, code in codes.items()}
    known = {**corpus.folders, **named}
    others = [one for one in languages or () if is_language(one) and find_language(one, known) is None]
    return replace(corpus, folders={**known, **dict(zip(others, others, strict=True))})


def why_left_out(split: str, text: str, seconds: float) -> str | None:
    """Why an utterance of ``seconds`` is left out; None: it is not. Dev and test are scored whole."""
    return why_unfit(text, seconds, MAX_SECONDS) if split == "train" or not text else None


def table_lines(table: Path) -> list[str]:
    """The lines of a table in UTF-8, with or without a byte order mark; only line feeds end them.

    Raises:
        PathwaysError: if it is not UTF-8.
    """
    try:
        lines = table.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise PathwaysError(f"{table}: not UTF-8 text") from None
    return [line.removesuffix("\r") for line in lines]
