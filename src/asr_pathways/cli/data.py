"""``asr-pathways data``: corpora to data folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_pathways.cli.shared import Languages, split_languages
from asr_pathways.console import print_table

if TYPE_CHECKING:
    from asr_pathways.data.corpora.published import Published

app = typer.Typer(no_args_is_help=True, help="Makes data folders: Lhotse cuts in three splits, 16 kHz mono.")

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The data folder to make.", show_default=False)]
From = Annotated[
    Path | None,
    typer.Option("--from", help="Unpacked packages, or a folder of .deb files, instead of fetching them."),
]
Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="The unpacked download; its audio stays there.", show_default=False),
]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that read the audio files' headers.")]


@app.command()
def prompts(out: Out, source: From = None, languages: Languages = None) -> None:
    """Telephone prompts by one speaker a language (en es fr it ru), from Debian's asterisk-core-sounds.

    Example: asr-pathways data prompts data/prompts
    """
    from asr_pathways.data.corpora.prompts import LANGUAGES, prepare_prompts

    _summary(out, prepare_prompts(out, source, split_languages(languages) or LANGUAGES))


@app.command()
def dialogues(out: Out, source: From = None, languages: Languages = None) -> None:
    """Acted dialogues of several characters (cs nl), from Debian's fillets-ng-data.

    Example: asr-pathways data dialogues data/dialogues
    """
    from asr_pathways.data.corpora.dialogues import LANGUAGES, prepare_dialogues

    _summary(out, prepare_dialogues(out, source, split_languages(languages) or LANGUAGES))


@app.command()
def manifest(
    out: Out,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, or TSV with a header.")],
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out bad rows up to this share of all; more are an error.")
    ] = 0.01,
) -> None:
    """Your own recordings in any language: rows of audio_filepath, text, lang; offset, duration, channel, split if
    you like.

    Example: asr-pathways data manifest data/own own.jsonl
    """
    from asr_pathways.data.corpora.manifest import prepare_manifest

    for bad in prepare_manifest(out, file, max_bad):
        typer.echo(f"{file}, line {bad.line}: left out: {bad.reason}", err=True)
    _summary(out)
    _concerns(out)


@app.command()
def mls(source: Source, out: Out, languages: Languages = None, jobs: Jobs = 1) -> None:
    """Multilingual LibriSpeech, downloaded from openslr.org/94 (de en es fr it nl pl pt): read audiobooks.

    Example: asr-pathways data mls downloads/mls data/mls --languages en,fr,it,nl
    """
    from asr_pathways.data.corpora.mls import MLS

    _published(source, out, MLS, languages, jobs)


@app.command()
def fleurs(source: Source, out: Out, languages: Languages = None, jobs: Jobs = 1) -> None:
    """FLEURS, downloaded from huggingface.co/datasets/google/fleurs: read sentences, ten hours a language.

    Example: asr-pathways data fleurs downloads/fleurs data/fleurs --languages en,fr
    """
    from asr_pathways.data.corpora.fleurs import FLEURS

    _published(source, out, FLEURS, languages, jobs)


@app.command()
def commonvoice(source: Source, out: Out, languages: Languages = None, jobs: Jobs = 1) -> None:
    """Common Voice, downloaded from commonvoice.mozilla.org, in any language: read sentences, many speakers.

    Example: asr-pathways data commonvoice downloads/cv-corpus-17.0-2024-03-15 data/cv --languages en,fr
    """
    from asr_pathways.data.corpora.commonvoice import COMMON_VOICE

    _published(source, out, COMMON_VOICE, languages, jobs)


@app.command()
def shar(source: Source, out: Out, languages: Languages = None) -> None:
    """Any corpus as a Lhotse Shar, with folders train, dev and test of shards; texts as they are.

    Example: asr-pathways data shar shards data/own --languages en,fr
    """
    from asr_pathways.data.corpora.shar import prepare_shar

    _summary(out, prepare_shar(out, source, split_languages(languages)))
    _concerns(out)


@app.command()
def texts(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for LANGUAGE.txt files.", show_default=False)],
    languages: Languages = "en,es,fr,it,ru",
    source: From = None,
    exclude: Annotated[
        Path | None,
        typer.Option(help="A data folder whose texts are left out, so that no test text is synthesised."),
    ] = None,
) -> None:
    """Lines of everyday language for synth (cs en es fr it nl ru), from Debian's dialogues, fortunes and help texts.

    Example: asr-pathways data texts data/texts --languages en,fr --exclude data/prompts
    """
    from asr_pathways.data.corpora.texts import texts_in, write_texts

    left_out = set() if exclude is None else texts_in(exclude)
    for language, count in write_texts(out, split_languages(languages) or [], source, left_out).items():
        typer.echo(f"{language}: {count:,} lines", err=True)


@app.command()
def numbers(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for LANGUAGE.txt files.", show_default=False)],
    languages: Languages = "en,es,fr,it,ru",
    lines: Annotated[int, typer.Option(min=1, help="Lines a language.")] = 2000,
) -> None:
    """Spoken numbers for synth, in 28 languages: a small task that even a tiny model learns, for experiments.

    Example: asr-pathways data numbers data/numbers-texts --lines 4000
    """
    from asr_pathways.data.corpora.numbers import write_numbers

    write_numbers(out, split_languages(languages) or [], lines)


@app.command()
def synth(
    out: Out,
    texts: Annotated[Path, typer.Option(help="Folder of LANGUAGE.txt files, one utterance a line.")],
    languages: Languages = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Hours a language; else each line once.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses voices, rates and pitches.")] = 0,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.4, help="Share of the texts in dev, and as many in test.")
    ] = 0.02,
) -> None:
    """Synthetic speech of many voices, by eSpeak NG (pip install 'asr-pathways\\[synth]'), in any language that it has.

    Voices and texts of dev and test are in no other split.

    Example: asr-pathways data synth data/synth --texts data/texts --hours 4
    """
    from asr_pathways.data.corpora.synth import prepare_synth
    from asr_pathways.data.corpora.texts import read_texts

    lines = read_texts(texts, split_languages(languages))
    for language, count in prepare_synth(out, lines, seed, hours, held_out).items():
        if count:
            typer.echo(f"{language}: {count:,} lines left out: no speech, or too much, came out", err=True)
    _summary(out)


@app.command()
def merge(
    out: Out,
    inputs: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Data folders.", show_default=False)],
) -> None:
    """Several data folders into one.

    Example: asr-pathways data merge data/all data/prompts data/synth
    """
    from asr_pathways.data.corpus import merge as run

    run(inputs, out)
    _summary(out)
    _concerns(out)


def _published(source: Path, out: Path, corpus: Published, languages: str | None, jobs: int) -> None:
    from asr_pathways.data.corpora.published import prepare_published

    _summary(out, prepare_published(out, source, corpus, split_languages(languages), jobs))


def _summary(out: Path, left_out: Mapping[str, Counter[str]] | None = None) -> None:
    """Prints what was left out, and the contents of a data folder."""
    for language, reasons in (left_out or {}).items():
        for reason, count in reasons.items():
            typer.echo(f"{language}: {count} left out: {reason}", err=True)
    from rich.table import Table

    from asr_pathways.data.corpus import summarize
    from asr_pathways.formats import speech

    table = Table("language", "split", title=str(out))
    for name in ("speech", "utterances", "words"):
        table.add_column(name, justify="right")
    for row in summarize(out):
        table.add_row(row.language, row.split, speech(row.hours), f"{row.utterances:,}", f"{row.words:,}")
    print_table(table)


def _concerns(out: Path) -> None:
    """On stderr: what is missing in a data folder, or too small to tell anything."""
    from asr_pathways.evaluation.corpus_check import concerns

    for line in concerns(out):
        typer.echo(f"{out}: {line}", err=True)
