"""``export``: a pruned model in the formats of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_pathways.cli.shared import Languages, split_languages
from asr_pathways.errors import PathwaysError
from asr_pathways.formats import percent, size

if TYPE_CHECKING:
    from asr_pathways.bundle.layout import Score

FORMATS = ("bundle", "hf", "onnx", "sherpa")


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A pruned model folder, or a bundle.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; for a bundle a file, OUT.asrp.")],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")] = "bundle",
    dtype: Annotated[
        str | None,
        typer.Option(help="Of a bundle's weights: float32, float16 or int8.", show_default="float16"),
    ] = None,
    languages: Languages = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            metavar="TEXTS|all",
            help="Of a Whisper's bundle: each language's output layer has only the tokens of these texts, those of "
            "single bytes and special ones. TEXTS: a data folder (train), or one of LANGUAGE.txt files, as the model "
            "writes texts.",
            show_default="all, or the bundle's",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="The output of evaluate --json, for bundle and hf; else MODEL/scores.json if it exists."),
    ] = None,
) -> None:
    """Writes a pruned model as one bundle of all its languages, or in a form that other programs read.

    bundle: weights that some language keeps, and a mask of bits a language; every MODEL argument accepts it.
    hf: a model folder (of a Hugging Face model: one that transformers loads) with the zeros of one language written in;
    of a pathway of whole neurons, a smaller model.
    onnx, sherpa: streaming graphs of one language, or of several in a folder each; sherpa-onnx runs the latter.

    Example: asr-pathways export runs/dynamic dynamic.asrp
    """
    if format not in FORMATS:
        raise PathwaysError(f"--format {format}: the formats are {', '.join(FORMATS)}")
    if format != "bundle" and (dtype is not None or vocabulary is not None):
        raise PathwaysError(f"--dtype and --vocabulary are of bundles: leave them out for --format {format}")
    if format not in ("bundle", "hf") and scores is not None:
        raise PathwaysError(f"--scores has no place in --format {format}: leave it out")
    chosen = split_languages(languages)
    _check_place(model, out)
    if format == "bundle":
        _bundle(model, out, dtype, chosen, scores, vocabulary)
        return
    from asr_pathways.bundle.load import load_model

    asr = load_model(model)
    if format == "hf":
        from asr_pathways.export.dense_copy import write_dense_copy

        sizes = write_dense_copy(asr, out, chosen, _known_scores(model, scores))
        written = size(sum(path.stat().st_size for path in out.iterdir() if path.is_file()))
        if sizes:
            smaller = ", ".join(f"{key} {neurons:,}" for key, neurons in sizes.items())
            typer.echo(f"{out}: a smaller dense model of {written}: {smaller}", err=True)
        else:
            typer.echo(
                f"{out}: a dense model of {written} with its zeros written in: safetensors stores them all, so it is "
                "as large and as fast as before; small and fast is the bundle (--format bundle)",
                err=True,
            )
        return
    from asr_pathways.export.onnx import export_onnx
    from asr_pathways.export.sherpa import export_sherpa

    for one in (export_onnx if format == "onnx" else export_sherpa)(asr, out, chosen):
        languages = ", ".join(one.languages)
        typer.echo(
            f"{one.folder}: {languages}; scores differ from the model's by {one.difference:.1e} at most", err=True
        )


def _check_place(model: Path, out: Path) -> None:
    """Raises PathwaysError if something is in OUT that is no earlier export, before the model is loaded."""
    from asr_pathways.data.corpus import ABOUT

    if out.exists() and model.exists() and out.samefile(model):
        raise PathwaysError(f"{out}: is the MODEL, which the export would write over: choose another name")
    for name, what in ((ABOUT, "data folder"), ("history.json", "run"), ("checkpoints", "run")):
        if (out / name).exists():
            raise PathwaysError(f"{out}: a {what} is there: choose another place for the export")


def _bundle(
    model: Path,
    out: Path,
    dtype: str | None,
    languages: Sequence[str] | None,
    scores: Path | None,
    vocabulary: str | None,
) -> None:
    from asr_pathways.bundle.bundle import Bundle, write_bundle
    from asr_pathways.bundle.layout import QUANTITIES, check_name, is_bundle
    from asr_pathways.bundle.load import load_model
    from asr_pathways.bundle.vocabulary import read_texts, tokens_of
    from asr_pathways.model_folder.card import IDENTIFIER

    check_name(out)  # before the model is loaded, which may take long
    quantity = next((known for known in QUANTITIES if known == (dtype or "float16")), None)
    if quantity is None:
        raise PathwaysError(f"--dtype {dtype}: one of {', '.join(QUANTITIES)}")
    vocabularies = {}
    if is_bundle(model):
        bundle = Bundle.open(model)
        kept = {language: bundle.vocabulary(language) for language in bundle.languages}
        vocabularies = {language: tokens for language, tokens in kept.items() if tokens is not None}
        identifier = bundle.file(IDENTIFIER) if bundle.has(IDENTIFIER) else None
    else:
        fitted = model / IDENTIFIER
        identifier = fitted.read_bytes() if fitted.is_file() else None
    known = _known_scores(model, scores)
    asr = load_model(model)
    if vocabulary is not None:
        texts = {} if vocabulary == "all" else read_texts(Path(vocabulary), asr.check_languages(languages))
        vocabularies = tokens_of(asr, texts) if texts else {}
    sizes = write_bundle(asr, out, quantity, languages, scores=known, identifier=identifier, vocabularies=vocabularies)
    typer.echo(
        f"{out}: {len(sizes.masks)} mask{'s' * (len(sizes.masks) > 1)}, {size(sizes.total)}; "
        f"{sizes.mask_bits:.2f} bits of masks a prunable weight: 1 for all, and 1 each for the "
        f"{100 * sizes.union_density:.1f}% that some mask keeps",
        err=True,
    )
    if vocabularies:
        shares = (f"{language} {percent(share)}%" for language, share in Bundle.open(out).vocabulary_shares().items())
        typer.echo(f"{out}: tokens of the vocabulary: {', '.join(shares)}", err=True)


def _known_scores(model: Path, scores: Path | None) -> dict[str, Score]:
    """Scores by language: of ``scores`` (``evaluate --json`` writes it), of that beside the model, or the bundle's."""
    from asr_pathways.bundle.bundle import Bundle
    from asr_pathways.bundle.layout import Score, is_bundle
    from asr_pathways.evaluation.listing import read_evaluation

    if scores is None and is_bundle(model):
        return dict(Bundle.open(model).config.scores)
    path = model / "scores.json" if scores is None else scores
    if scores is None and not path.is_file():
        return {}
    evaluated, _ = read_evaluation(path)
    return {one.language: Score(wer=one.wer.rate, words=one.words) for one in evaluated.languages}
