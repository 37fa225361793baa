"""``shrink``: one command from a recogniser to a small and fast one for some languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr_pathways.cli.shared import announce, split_languages
from asr_pathways.errors import PathwaysError


def shrink(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A dense MODEL, such as openai/whisper-base.", show_default=False)
    ],
    languages: Annotated[
        str, typer.Option(help="Those it is to recognise: codes with commas between.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|own.jsonl", help="A data folder, or a manifest of your recordings.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; NAME.asrp in it is the result.", show_default="runs/MODEL-LANGUAGES"),
    ] = None,
    target: Annotated[str, typer.Option(help="What counts most: accuracy, size or speed.")] = "accuracy",
    budget: Annotated[
        str, typer.Option(help="Time for all of it, such as 30m or 8h; 0: nothing is trained, which is quickest.")
    ] = "0",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if any; else begin.")] = False,
) -> None:
    """Makes a model small and fast for some languages, in the time that you have.

    Measures the model on this machine, prints what it will do and what to expect, does it, and ends with the pruned
    model beside the dense one: WER on your test data, bytes, speed. [b]prune[/b] is for those who choose themselves.

    Example: asr-pathways shrink openai/whisper-base --languages fr,it --data data/prompts --budget 30m
    """
    from asr_pathways.shrink.plans import TARGETS, parse_budget

    chosen = next((known for known in TARGETS if known == target), None)
    if chosen is None:
        raise PathwaysError(f"--target {target}: one of {', '.join(TARGETS)}")
    codes = list(dict.fromkeys(split_languages(languages) or ()))
    place = out or Path("runs") / f"{model.name.partition('@')[0]}-{'-'.join(codes)}"
    seconds = parse_budget(budget)
    announce(f"{place}: making {model} small in {', '.join(codes)}")
    from asr_pathways.shrink.command import shrink as run

    run(model, data, place, codes, target=chosen, budget=seconds, resume=resume)
