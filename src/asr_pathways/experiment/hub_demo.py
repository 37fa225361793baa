"""The demo of a model of the hub: `shrink` in the prompts' languages, and a report of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpora.prompts import LANGUAGES, prepare_prompts
from asr_pathways.data.corpus import is_data_folder
from asr_pathways.experiment.report.html import page
from asr_pathways.experiment.report.markdown import escape, table
from asr_pathways.files import write_text
from asr_pathways.formats import language_name, percent, size
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.shrink.command import Outcome, shrink
from asr_pathways.shrink.compare import System, TestSet, comparison

BUDGET = 1500.0
"""Seconds for `shrink`, of the half hour that the demo may take."""


def run_hub_demo(
    model: Path, out: Path, *, source: Path | None = None, languages: Sequence[str] = LANGUAGES
) -> Outcome:
    """Shrinks ``model`` on the prompts into ``out/shrunk``, and writes ``out/report.html``; a second run goes on there.

    Args:
        model: a dense MODEL of the hub.
        out: where everything goes.
        source: Debian packages of the prompts, where they are not to be fetched.
        languages: of the prompts.

    Raises:
        PathwaysError: if the model or the prompts cannot be read.
    """
    windows = load_model(model).model.pads_to_window  # a wrong one is reported before anything is fetched
    data = out / "data"
    if not is_data_folder(data):
        prepare_prompts(data, source, languages)
    outcome = shrink(model, data, out / "shrunk", languages, budget=BUDGET, resume=True)
    report = out / "report.html"
    write_text(report, _report(outcome, model, data, languages, windows))
    print(f"report: {report}", file=sys.stderr)
    return outcome


def _report(outcome: Outcome, model: Path, data: Path, languages: Sequence[str], windows: bool) -> str:
    """The web page; ``windows``: whether the model as it came pads its input to a window."""
    dense, *tuned, pruned = (percent(system.scored.mean_wer) for system in outcome.systems)
    small, finetuned = size(outcome.systems[-1].nbytes), f", finetuned {tuned[0]}%" if tuned else ""
    title = f"{len(languages)} pathways in {small}: WER {pruned}% where {model.name} has {dense}%{finetuned}"
    commands = "".join(f"    asr-pathways {command}\n" for command in outcome.commands)
    answers = (f"**{ask}** {answer}" for ask, answer in _answers(outcome, model, windows).items())
    examples = _examples(outcome.bundle, data, languages)
    parts = (f"# {escape(title)}", *answers, _table(outcome), "## What it recognises", examples, "## Next", commands)
    return page(title, "\n\n".join(parts), {})


def _answers(outcome: Outcome, model: Path, windows: bool) -> dict[str, str]:
    """What a newcomer asks, in Markdown."""
    dense, pruned = outcome.systems[0], outcome.systems[-1]
    speeds = "; ".join(f"{system.name}: {_speed(system):.1f}" for system in outcome.systems)
    trained = padded = ""
    if len(outcome.systems) > 2:
        tuned = outcome.systems[1]
        trained = f" Trained on these recordings without pruning it has {percent(tuned.scored.mean_wer)}%."
        if windows:
            padded = " As it came it computes whole windows, however short a recording is; trained here, what is there."
    return {
        "How much smaller?": f"The pathways of all languages are one file of {size(pruned.nbytes)} "
        f"(`{outcome.bundle}`); `{escape(str(model))}` takes {size(dense.nbytes)}.",
        "How much faster?": f"Seconds of speech recognised in a second, here, in one thread: {speeds}.{padded}",
        "Is it as good?": " ".join(f"{escape(line)}." for line in outcome.lines),
        f"Why is the dense WER {percent(dense.scored.mean_wer)}%?": "The model is scored as it came, on telephone "
        f"prompts, many of them two or three words long.{trained}",
        "And on other voices?": "These recordings have one speaker a language, who is in train and test. On speakers "
        "that training lacks, pruning costs far more (docs/discussion.md): train on varied speech.",
    }


def _table(outcome: Outcome) -> str:
    headings, rows = comparison(outcome.systems)
    named = [[escape(system.name), *row] for system, row in zip(outcome.systems, rows, strict=True)]
    caption = f"WER % on {outcome.split}, size, and speed in one thread"
    return table(["system", *headings], named, numbers_from=1, caption=caption)


def _examples(bundle: Path, data: Path, languages: Sequence[str]) -> str:
    """The longest test utterance of each language, as spoken and as recognised from the bundle."""
    recognizer, tested, rows = Recognizer(bundle), TestSet.of(data, languages), []
    for language in languages:
        cut = tested.longest(language)
        spoken = cut.supervisions[0]
        found = recognizer.transcribe(read_cut(cut), language=spoken.language).text
        rows.append([language_name(spoken.language), escape(spoken.text), escape(found)])
    return table(("language", "spoken", "recognised from the bundle"), rows, numbers_from=3)


def _speed(system: System) -> float:
    return system.audio / system.seconds
