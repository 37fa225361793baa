"""The command line: parses, calls, prints."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_pathways.cli.bench import bench
from asr_pathways.cli.data import app as data_app
from asr_pathways.cli.export import export
from asr_pathways.cli.live import PartialLine, UntilInterrupted
from asr_pathways.cli.serve import serve
from asr_pathways.cli.shared import Languages, announce, split_languages
from asr_pathways.cli.shrink import shrink
from asr_pathways.console import print_table
from asr_pathways.errors import PathwaysError, one_line, visible

if TYPE_CHECKING:
    from asr_pathways.runtime.recognizer import Recognizer
    from asr_pathways.runtime.results import Result

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Prunes a multilingual speech recogniser into one sparse sub-network (pathway) per language.",
)
app.add_typer(data_app, name="data")
app.command()(shrink)
app.command()(export)
app.command()(bench)
app.command()(serve)

_debug = False

_NO_MEMORY = re.compile("can't allocate memory|not enough memory|[Oo]ut of memory|Cannot allocate memory")
"""How torch says that an allocation failed, by errors of no kind of their own."""

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, Hugging Face folder or hub name (owner/model), run folder or bundle.",
        show_default=False,
    ),
]
Data = Annotated[Path, typer.Option(help="A data folder (see [b]asr-pathways data[/b]).", show_default=False)]
Out = Annotated[Path, typer.Option(help="The run folder; becomes a MODEL.", show_default=False)]
From = Annotated[
    Path | None,
    typer.Option("--from", help="Already unpacked prompt packages, where there is no apt."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out, if any; else begin.")]
KeepCheckpoints = Annotated[
    bool, typer.Option("--keep-checkpoints", help="Keep what only resuming needs when the run has ended.")
]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    global _debug
    _debug = debug


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="A recipe, such as recipes/train.yaml.", show_default=False)],
    data: Data,
    out: Out,
    init: Annotated[Path | None, typer.Option(help="A dense MODEL whose weights to start from.")] = None,
    resume: Resume = False,
    keep_checkpoints: KeepCheckpoints = False,
) -> None:
    """Trains a dense multilingual model.

    Example: asr-pathways train --config recipes/train.yaml --data data/prompts --out runs/dense
    """
    announce(f"{out}: training by {config}")
    from asr_pathways.training.config import TrainRecipe
    from asr_pathways.training.train import train as run

    if _finished(out, resume):
        return
    run(TrainRecipe.read(config), data, out, init=init, resume=resume)
    _end(out, keep_checkpoints)


@app.command()
def prune(
    model: Model,
    data: Data,
    sparsity: Annotated[float, typer.Option(help="Share of prunable weights at zero, such as 0.7.")],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(help="How masks are made and moved: the list above.", show_default="dynamic; of Whisper pathways"),
    ] = None,
    languages: Languages = None,
    init: Annotated[
        str, typer.Option(help="Where masks start: omp (one shot), lap, lsp, or a pruned MODEL folder.")
    ] = "omp",
    config: Annotated[
        Path | None, typer.Option(help="A recipe, such as recipes/prune.yaml.", show_default="by the model's kind")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Training steps, instead of the recipe's.")] = None,
    drop_layers: Annotated[
        str | None,
        typer.Option(
            metavar="PART:N,...",
            help="Leave out so many layers first, those that the loss needs least, such as encoder:2,decoder:1.",
        ),
    ] = None,
    resume: Resume = False,
    keep_checkpoints: KeepCheckpoints = False,
) -> None:
    """Prunes a dense model into one sparse pathway per language.

    One language makes a sparse monolingual model; several make one model with a mask each. With --steps 0 nothing
    is trained: the masks are those of --init.

    Methods:

    [b]omp[/b]       one mask for all, in one shot; weights outside it stay

    [b]imp[/b]       one mask for all, in stages; weights outside it stay

    [b]lth[/b]       as imp; after each stage the weights go back to where they started

    [b]parp[/b]      one mask for all; zeros are written in, and may move until the next prune

    [b]adaptive[/b]  one mask for all, in stages, chosen again while it trains

    [b]pathways[/b]  a mask a language, fixed

    [b]dynamic[/b]   a mask a language, chosen again while it trains

    Example: asr-pathways prune models/tiny --data data/prompts --sparsity 0.7 --out runs/dynamic
    """
    announce(f"{out}: pruning {model}")
    from asr_pathways.config import parse_config
    from asr_pathways.training.config import PruneRecipe
    from asr_pathways.training.prune import prune as run

    if _finished(out, resume):
        return
    dropped = None
    if drop_layers is not None:
        parts = [part.strip().partition(":")[::2] for part in drop_layers.split(",")]
        counts = dict(parts)
        if len(counts) < len(parts):
            raise PathwaysError(f"--drop-layers {drop_layers}: names a part twice")
        dropped = parse_config(PruneRecipe, {"drop_layers": counts}, f"--drop-layers {drop_layers}").drop_layers
    run(
        model,
        data,
        out,
        method=method,
        sparsity=sparsity,
        recipe=PruneRecipe.read(config) if config else None,
        steps=steps,
        drop_layers=dropped,
        languages=split_languages(languages),
        init=init,
        resume=resume,
    )
    _end(out, keep_checkpoints)


@app.command("add-language")
def add_language(
    model: Model,
    language: Annotated[str, typer.Option(help="The code of the new language, such as it.", show_default=False)],
    data: Data,
    out: Out,
    sparsity: Annotated[float | None, typer.Option(help="Of the new pathway; else that of the others.")] = None,
    config: Annotated[Path | None, typer.Option(help="A recipe, such as recipes/prune.yaml.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Training steps, instead of the recipe's.")] = None,
    resume: Resume = False,
    keep_checkpoints: KeepCheckpoints = False,
) -> None:
    """Adds a language to a pruned model; transcripts in the others stay the same bit for bit.

    The new pathway uses any weight and trains only those that no other keeps. A language whose letters the model
    lacks gets its own word pieces.

    Example: asr-pathways add-language runs/dynamic --language it --data data/prompts --out runs/with-it
    """
    announce(f"{out}: adding {language} to {model}")
    from asr_pathways.training.add_language import add_language as run
    from asr_pathways.training.config import PruneRecipe

    if _finished(out, resume):
        return
    recipe = (PruneRecipe.read(config) if config else PruneRecipe()).with_steps(steps)
    run(model, data, out, language=language, recipe=recipe, sparsity=sparsity, resume=resume)
    _end(out, keep_checkpoints)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    languages: Languages = None,
    json: Annotated[Path | None, typer.Option(help="Write scores and utterances here.")] = None,
    errors: Annotated[Path | None, typer.Option(help="Write aligned errors of each utterance here.")] = None,
) -> None:
    """Prints WER and CER of each language, with confidence intervals.

    A bundle is run as it ships, on the CPU; a folder as it trains, by torch, on a GPU if there is one.

    Example: asr-pathways evaluate models/tiny --data data/prompts --split test --json scores.json
    """
    announce(f"{model}: recognising {data}, {split}")
    from asr_pathways.bundle.layout import is_bundle
    from asr_pathways.bundle.load import load_model
    from asr_pathways.data.corpus import SPLITS
    from asr_pathways.evaluation.listing import write_alignments, write_evaluation
    from asr_pathways.evaluation.tables import score_table
    from asr_pathways.evaluation.wer import score, without_words
    from asr_pathways.files import require_writable
    from asr_pathways.model_folder.decode import decode_split
    from asr_pathways.model_folder.folder import fastest_device
    from asr_pathways.runtime.recognizer import Recognizer
    from asr_pathways.runtime.transcription import recognize_split

    if split not in SPLITS:
        raise PathwaysError(f"--split {split}: choose among {', '.join(SPLITS)}")
    for place in (json, errors):
        if place is not None:
            require_writable(place)
    if is_bundle(model):
        utterances = recognize_split(Recognizer(model), data, split, split_languages(languages))
    else:
        utterances = decode_split(load_model(model, fastest_device()), data, split, split_languages(languages))
    for name, count in without_words(utterances).items():
        typer.echo(f"{name}: {count} references have no words: words recognised there count as insertions", err=True)
    scores = score(utterances)
    print_table(score_table(scores, f"{model} on {data}, {split}"))
    if json is not None:
        write_evaluation(json, scores, utterances)
    if errors is not None:
        write_alignments(errors, utterances)


class Format(str, Enum):
    """Of transcripts."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"
    manifest = "manifest"


@app.command()
def transcribe(
    model: Model,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Audio files; with --stream, - is standard input: a WAV stream, or raw samples.",
            show_default=False,
        ),
    ],
    language: Annotated[
        str, typer.Option(help="The language that is spoken; auto: the model identifies it.", show_default=False)
    ],
    languages: Annotated[
        str | None, typer.Option(help="With --language auto: choose among these, such as fr,it.", show_default=False)
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="text; json: an object a file, with times; srt or vtt: captions; manifest: rows for data manifest, "
            "to train on speech without transcripts."
        ),
    ] = Format.text,
    words: Annotated[
        bool, typer.Option("--words", help="Time each word; captions underline the one that is spoken.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="auto: whichever products are fastest here, int8 too; float32: exact.")
    ] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Of each product.")] = 1,
    stream: Annotated[bool, typer.Option("--stream", help="Recognise piece by piece, showing partial texts.")] = False,
    beam: Annotated[int, typer.Option(min=1, help="Hypotheses of beam search; 1 is greedy.")] = 1,
    phrases: Annotated[
        Path | None,
        typer.Option(help="A text file of words and names to prefer, one phrase a line; with --beam."),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(min=0, help="The channel to recognise, from 0.", show_default="all, averaged")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Hz of raw samples on standard input.", show_default="16000")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Of raw samples: u8, s16le, s24le, s32le, f32le, f64le, alaw, mulaw.", show_default="s16le"),
    ] = None,
) -> None:
    """Transcribes audio files of any rate and format that libsndfile reads.

    Example: asr-pathways transcribe fr.asrp --language fr --format srt call.wav

    Microphone: arecord -r 16000 -f S16_LE | asr-pathways transcribe runs/dynamic --language fr --stream -
    """
    from asr_pathways.runtime.phrase_bias import read_phrases
    from asr_pathways.runtime.recognizer import Recognizer
    from asr_pathways.runtime.results import Captions

    if stream and language == "auto" and files != [Path("-")]:
        raise PathwaysError("--language auto needs the whole recording: leave --stream out")
    if languages is not None and language != "auto":
        raise PathwaysError("--languages restricts what --language auto chooses among: leave one of them out")
    if Path("-") in files and not stream:
        raise PathwaysError("-: standard input is recognised as it comes: add --stream")
    if (rate is not None or encoding is not None) and Path("-") not in files:
        raise PathwaysError("--rate and --encoding are of raw samples on standard input: files say theirs themselves")
    if format is Format.manifest and Path("-") in files:
        raise PathwaysError("--format manifest: rows name files to train on, and standard input is none")
    captions = Captions(format.value, words) if format in (Format.srt, Format.vtt) else None
    if captions is not None and len(files) > 1:
        raise PathwaysError(f"--format {format.value}: captions are of one recording: name one file")
    recognizer = Recognizer(
        model,
        language,
        threads=threads,
        precision=precision,  # type: ignore[arg-type]  # checked there
        languages=split_languages(languages),
        beam=beam,
        phrases=() if phrases is None else read_phrases(phrases),
    )
    if stream:
        recognize = _streamed(recognizer, language, channel, rate or 16_000, encoding or "s16le")
    else:

        def recognize(file: Path) -> Iterator[Result]:
            yield _doubted(file, recognizer.transcribe(file, words=words, channel=channel))

    failed = False
    for file in files:
        try:
            for result in recognize(file):
                if captions is None:
                    _print_result(result, file, format, words, channel, alone=len(files) == 1)
                else:
                    typer.echo(visible(captions.after(result)), nl=False)
        except PathwaysError as error:
            if len(files) == 1 or _debug:
                raise
            typer.echo(f"asr-pathways: {error}", err=True)  # the other files are recognised all the same
            failed = True
    if failed:
        raise typer.Exit(1)


def _print_result(result: Result, file: Path, format: Format, words: bool, channel: int | None, alone: bool) -> None:
    from json import dumps

    if format is Format.manifest:
        for row in result.to_manifest(file.absolute(), channel):
            typer.echo(dumps(row, ensure_ascii=False))
    elif format is Format.json:
        described = result.to_dict()
        if not words:
            described.pop("words", None)
        typer.echo(dumps({"file": str(file), **described}, ensure_ascii=False))
    else:
        typer.echo(visible(result.text if alone else f"{file}: {result.text}"))


def _doubted(file: Path, result: Result) -> Result:
    """The result; a line on stderr if its language is uncertain, and not only another in each segment."""
    from asr_pathways.runtime.recognizer import UNCERTAIN

    several = len({segment.language for segment in result.segments}) > 1
    if result.languages and next(iter(result.languages.values())) < UNCERTAIN and not several:
        likeliest = ", ".join(f"{language} {share:.2f}" for language, share in list(result.languages.items())[:2])
        typer.echo(
            f"{visible(str(file))}: the language is uncertain ({likeliest}): name it by --language, "
            "or restrict the choice by --languages",
            err=True,
        )
    return result


def _streamed(
    recognizer: Recognizer, language: str, channel: int | None, rate: int, encoding: str
) -> Callable[[Path], Iterator[Result]]:
    """From a file to its final results; partial ones go to stderr."""
    from asr_pathways.runtime.transcription import transcribe_live, transcribe_stream

    def shown(results: Iterable[tuple[Result, bool]]) -> Iterator[Result]:
        line = PartialLine()
        try:
            for result, final in results:
                if final:
                    line.clear()
                    yield result
                else:
                    line.show(result.text)
        finally:
            line.clear()

    def recognize(file: Path) -> Iterator[Result]:
        if file != Path("-"):
            yield from shown(transcribe_stream(recognizer, file, language, channel=channel))
            return
        with UntilInterrupted(sys.stdin.buffer) as sound:
            yield from shown(transcribe_live(recognizer, sound, language, rate, encoding, channel))
        if sound.interrupted:
            raise typer.Exit(130)

    return recognize


@app.command()
def identify(model: Model, data: Data, languages: Languages = None) -> None:
    """Fits a language identifier for [b]transcribe --language auto[/b]; prints how often it is right.

    A linear head on the encoder's output; minutes. Use data with many speakers in each language: with one speaker a
    language it learns the voices.

    Example: asr-pathways identify runs/dynamic --data data/prompts
    """
    announce(f"{model}: encoding {data}")
    from asr_pathways.bundle.layout import is_bundle
    from asr_pathways.bundle.load import load_model
    from asr_pathways.evaluation.tables import identification_table
    from asr_pathways.model_folder.folder import fastest_device
    from asr_pathways.model_folder.language_id import fit_identifier

    if is_bundle(model):
        raise PathwaysError(
            f"{model}: a bundle is not changed: fit the identifier of the model folder, then export it again"
        )
    if not model.is_dir():
        raise PathwaysError(f"{model}: no such model folder: the identifier is kept in it")
    identifier, right = fit_identifier(load_model(model, fastest_device()), data, split_languages(languages))
    identifier.save(model)
    print_table(identification_table(right))


@app.command()
def inspect(
    model: Model,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only how its products are computed here, with the time of each way.")
    ] = False,
) -> None:
    """Prints what a model is: sizes, and for a pruned one sparsity per layer, overlap and union density.

    Example: asr-pathways inspect runs/dynamic
    """
    from asr_pathways.bundle.load import load_model
    from asr_pathways.cli.inspection import inspection_tables, plan_table

    if plan:
        print_table(plan_table(model))
        return
    for table in inspection_tables(load_model(model), model):
        print_table(table)


@app.command()
def experiment(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A matrix of runs, such as recipes/paper.yaml.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of all results, where a second run goes on.", show_default="results/ and the recipe's name"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the cells and their expected times.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Run nothing: only write the report of the ledger.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster; local: as many cells at once as processors."),
    ] = None,
    source: From = None,
) -> None:
    """Runs a matrix of trainings and prunings, each once, and reports their results together.

    Whatever an interrupted or killed run has done is kept: start the same command again. The recipe's document and
    README are written only from results/ and the recipe's name; with another --out they stay as they are.

    Example: asr-pathways experiment recipes/paper.yaml --out results/paper
    """
    if dry_run and report:
        raise typer.BadParameter("--dry-run and --report do not go together: neither runs anything")
    announce(f"{recipe}: reading")
    from asr_pathways.experiment.command import run_experiment

    run_experiment(recipe, out, ray=ray, source=source, dry_run=dry_run, report=report)


@app.command()
def demo(
    model: Annotated[
        Path, typer.Option(help="The dense MODEL to prune; one of the hub by [b]shrink[/b], in half an hour.")
    ] = Path("models/tiny"),
    out: Annotated[Path, typer.Option(help="Where everything goes; a second run goes on there.")] = Path("demo"),
    source: From = None,
    fast: Annotated[bool, typer.Option("--fast", help="Fewer training steps.")] = False,
) -> None:
    """The main job: prunes a real model to 70% on real speech by Dynamic ASR Pathways, and writes report.html."""
    announce(f"{out}: reading {model}")
    from asr_pathways.experiment.demo import run_demo
    from asr_pathways.model_folder.folder import is_of_this_package

    if not is_of_this_package(model):
        from asr_pathways.experiment.hub_demo import run_hub_demo

        if fast:
            raise PathwaysError(f"--fast is of models of this package: {model} takes half an hour")
        run_hub_demo(model, out, source=source)
        return
    run_demo(model, out, source=source, fast=fast)


def _finished(out: Path, resume: bool) -> bool:
    """Whether there is nothing to go on with: the run in ``out`` has ended."""
    from asr_pathways.training.run import has_ended

    if not (resume and has_ended(out)):
        return False
    announce(f"{out}: the run has ended, and its model is there")
    return True


def _end(out: Path, keep_checkpoints: bool) -> None:
    from asr_pathways.formats import size
    from asr_pathways.training.run import remove_checkpoints

    if os.environ.get("RANK", "0") != "0":
        return
    freed = 0 if keep_checkpoints else remove_checkpoints(out)
    announce(f"{out}: model written" + (f"; checkpoints removed ({size(freed)})" if freed else ""))


def main() -> None:
    """Runs the command line: exit status 0 ok, 1 failed (one line on stderr), 2 misuse.

    Output is UTF-8, whatever the locale; what that cannot write, as in names of files, is an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except (PathwaysError, OSError, MemoryError, RuntimeError) as error:
        memory = isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))
        if _debug or (isinstance(error, RuntimeError) and not memory):
            raise
        line = one_line(str(error)) or type(error).__name__
        typer.echo(f"asr-pathways: {f'out of memory: {line:.200}' if memory else line}", err=True)
        sys.exit(1)
