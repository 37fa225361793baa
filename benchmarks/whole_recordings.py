"""The part of docs/performance.md on models that do not stream, from the figures of `asr-pathways bench MODEL`."""

from __future__ import annotations

from typing import Any

OURS = "asr-pathways"

INTRODUCTION = """# Whole recordings

A model that does not stream, beside what could be installed instead, all on the same weights: each system in a process
of its own, all of them in turn on each clip, medians of at least five rounds; greedy search, the language given. Made
by `asr-pathways bench MODEL --data DIR --threads 1,2 --json FILE`, an hour or two for all systems and clips;
`--against onnxruntime --clips 2-5,11 --utterances 20` takes some minutes.

- *Window*: what the encoder computes. *Own length*: no more than the utterance, as this package does for a model that
  trained on short windows. faster-whisper computes 30 seconds, as it ships, with `beam_size=1`, one temperature,
  `without_timestamps` and without the text before.
- torch: transformers' layers called by a loop of ours, which takes less time than `generate`. onnxruntime: graphs of
  any length with key-value caches, exported by the benchmark; int8 is dynamic quantisation, a scale a column.
  whisper.cpp: by pywhispercpp, matrices in float16, `audio_ctx` as long as the utterance.
- *Clips*: utterances of 2 to 5 s (the mean of five), and utterances joined to longer recordings: seconds to recognise
  one, and how many times as long that is as ours. RTF (in the JSON): that divided by the clip's length.
- A Whisper that trained on short recordings ends its text early on long ones. The 30 s below were measured before this
  package went on after such an end (`runtime/whisper/unsaid.py`): all wrote some 30 words of whisper-base-70.asrp's
  clip. Now ours takes 1.37 s and writes 101 (a sentence of them twice), the others 29 to 36
  (`results/whisper_one_thread.json`).
- *First*: seconds until the first token of the shortest clips is known, where a system reports it. *Load*: seconds from
  the start of the process, imports included, until it is ready. *Peak*: the most memory the process had.
- WER is of the first utterances of the test part; the training side's decoder: see the line below each heading.
"""


def key(result: dict[str, Any]) -> tuple[str, str, str]:
    """What a newer result replaces: the same model, language and machine."""
    return result["machine"]["processor"], result["model"]["name"], result["model"]["language"]


def section(results: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: a heading for each model and machine, a table for each count of threads."""
    lines = [INTRODUCTION]
    for result in results:
        machine, model, data = result["machine"], result["model"], result["data"]
        versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        lines += [
            f"## {model['name']}, {100 * model['sparsity']:.0f}% zeros, {model['language']}, on {machine['processor']}",
            "",
            f"{machine['cores']} cores ({machine['instructions']}), torch {machine['torch']}, {versions}. WER of "
            f"{data['utterances']} utterances ({data['words']} words) of {data['name']}; the training side's decoder: "
            f"{100 * result['reference_wer']:.1f}%. Rounds: {result['rounds']}.",
        ]
        for system, reason in result["left_out"].items():
            lines += ["", f"Not measured: {system}, {reason}."]
        for measured in result["results"]:
            lines += ["", f"Threads: {measured['threads']}", "", *_table(measured["rows"])]
        lines.append("")
    return lines[:-1] if results else []


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lengths = list(rows[0]["clips"])
    head = ["System", "Window", *(f"{length} s" for length in lengths), "First s", "Load s", "Peak MiB", "MB", "WER %"]
    ours = next(row for row in rows if row["system"] == OURS)
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'---:|' * (len(head) - 2)}"]
    for row in rows:
        first, wer = row["clips"][lengths[0]]["first_token_s"], row["wer"]
        cells = [row["system"], row["window"]]
        for length in lengths:
            seconds = row["clips"][length]["seconds"]
            ratio = "" if row is ours else f" ({seconds / ours['clips'][length]['seconds']:.2f}x)"
            cells.append(f"{seconds:.3f}{ratio}")
        cells += [
            "" if first is None else f"{first:.3f}",
            f"{row['load_s']:.2f}",
            f"{row['peak_mib']:,.0f}",
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
            "" if wer is None else f"{100 * wer:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
