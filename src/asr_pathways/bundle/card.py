"""The README.md of a bundle: what it is, for whoever finds it without us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from asr_pathways.bundle.layout import Score
from asr_pathways.formats import language_name, percent, size
from asr_pathways.model_folder.model import Card


def card_text(
    card: Card, scores: Mapping[str, Score], sparsity: Mapping[str, float], sizes: Mapping[str, int], dtype: str
) -> str:
    """Markdown.

    Args:
        card: of the model.
        scores: by language, where they are known.
        sparsity: by language.
        sizes: bytes, by part.
        dtype: of the values.
    """
    return "\n".join(_lines(card, scores, sparsity, sizes, dtype)) + "\n"


def _lines(
    card: Card, scores: Mapping[str, Score], sparsity: Mapping[str, float], sizes: Mapping[str, int], dtype: str
) -> Iterator[str]:
    yield "# A sparse speech recogniser"
    yield ""
    yield f"One set of {dtype} weights and a mask for each language (a bundle of asr-pathways, version 1)."
    yield ""
    yield "| language | | weights at zero % | WER % | words |"
    yield "|---|---|---:|---:|---:|"
    for language, share in sparsity.items():
        known = scores.get(language)
        told = f"{percent(known.wer)} | {known.words:,}" if known else "not measured |"
        yield f"| {language} | {language_name(language)} | {percent(share)} | {told} |"
    yield ""
    yield "| part | bytes |"
    yield "|---|---:|"
    for name, count in sizes.items():
        yield f"| {name} | {size(count)} |"
    yield ""
    yield "    asr-pathways transcribe THIS --language " + next(iter(sparsity)) + " recording.wav"
    yield ""
    yield "## Sources and licence"
    yield ""
    for line in card.attribution or ("The sources of its data are not written down.",):
        yield f"- {' '.join(line.split())}"
    yield "- The weights are under the licence of the model and data that they were made from."
