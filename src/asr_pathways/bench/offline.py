"""Recognising whole recordings: a MODEL beside what users could install instead, on the same weights and clips."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from asr_pathways.bench.clips import Clip, make_clips
from asr_pathways.bench.recognizers import OURS
from asr_pathways.bench.rivals import AS_IT_SHIPS, RIVALS, missing_packages, prepare, versions, write_dense
from asr_pathways.bench.run import machine
from asr_pathways.bench.worker import Answer, Worker
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import languages_of, load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import score
from asr_pathways.model_folder.decode import decode_cuts, pair
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.models.hub.whisper import Whisper
from asr_pathways.models.transducer import Transducer

ROUNDS = 5
IDLE = 0.3
"""Seconds between systems of several threads, which wait actively for a while after their last product."""

Report = Callable[[str], None]


def measure_offline(
    model: Path,
    data: Path,
    language: str | None,
    against: Sequence[str],
    threads: Sequence[int],
    lengths: Sequence[str],
    utterances: int,
    report: Report = print,
) -> Iterator[dict[str, Any]]:
    """Times a MODEL that does not stream, and its rivals, each in a process of its own, in rounds of all in turn.

    Args:
        model: a MODEL.
        data: a data folder; clips and utterances are of its test part.
        language: the pathway to use; None: the first that model and data share.
        against: names of `RIVALS`; those that are not installed, or do not run this model, are reported.
        threads: to use in all products; one table each.
        lengths: of clips, see `make_clips`.
        utterances: how many to score.
        report: called with a line on each step.

    Yields:
        After each count of threads all figures so far, as plain data: machine, model, versions, what was left out and
        why, and for each count a row a system.

    Raises:
        PathwaysError: if the model streams, the data are not in its language, or it cannot be loaded or fails.
    """
    asr = load_model(model)
    if isinstance(asr.model, Transducer):
        raise PathwaysError(f"{model}: streams: asr-pathways bench without a MODEL times streaming")
    language = asr.languages_for([language] if language else None, languages_of(load_cuts(data, "test")))[0]
    cuts = list(load_cuts(data, "test", [language]))
    scored, left_out = cuts[:utterances], dict[str, str]()
    report(f"scoring {len(scored)} utterances by the training side's decoder")
    # One at a time, as all systems recognise them: in a batch a window is as long as its longest utterance.
    decoded = [utterance for cut in scored for utterance in decode_cuts(asr, [cut], progress=False)]
    reference = score(decoded).languages[0]
    about = _about(asr, model, language)
    with tempfile.TemporaryDirectory(prefix="asr-pathways-bench-") as temporary:
        folder = Path(temporary)
        places = _prepared(asr, model, language, against, folder, left_out, report)
        clips = make_clips(cuts, lengths)
        results: list[dict[str, Any]] = []
        for count in threads:
            with ExitStack() as stack:
                run = _Run(places, language, count, stack, left_out, report)
                rows = run.timed(clips, folder)
                if not results:
                    texts = run.texts([read_cut(cut) for cut in scored], folder)
                    errors = {system: _wer(scored, found, asr.model.free_text) for system, found in texts.items()}
            for row in rows:
                place = places[row["system"]]
                row |= {"wer": errors.get(row["system"]), "bytes": bytes_of(place)}
                row["window"] = "30 s" if row["system"].startswith(AS_IT_SHIPS) else about["window"]
            results.append({"threads": count, "rows": rows})
            yield {
                "machine": machine(),
                "versions": versions([name for name in against if any(system.startswith(name) for system in places)]),
                "model": about,
                "data": {"name": data.name, "utterances": len(scored), "words": reference.words},
                "reference_wer": reference.wer.rate,
                "rounds": ROUNDS,
                "left_out": left_out,
                "results": results,
            }


def _about(asr: AsrModel, model: Path, language: str) -> dict[str, Any]:
    padded = isinstance(asr.model, Whisper) and asr.model.padding == "window"
    return {
        "name": model.name,
        "architecture": asr.model.describe()["architecture"],
        "language": language,
        "sparsity": 0.0 if asr.pathways is None else asr.pathways.summary().sparsity[language],
        "window": f"{asr.model.window:g} s" if padded else "own length",
    }


def _prepared(
    asr: AsrModel,
    model: Path,
    language: str,
    against: Sequence[str],
    folder: Path,
    left_out: dict[str, str],
    report: Report,
) -> dict[str, Path]:
    """{system: what it loads}; the reasons of those that cannot run are put into ``left_out``."""
    if missing := {name: packages for name in against if (packages := missing_packages(name))}:
        wanted = " ".join(dict.fromkeys(package for packages in missing.values() for package in packages))
        report(f"not installed, and left out: {', '.join(missing)}: pip install {wanted}")
    places, dense = {OURS: model}, folder / "dense"
    for name in against:
        rival = RIVALS[name]
        if missing_packages(name):
            left_out[name] = "not installed"
        elif not isinstance(asr.model, rival.kinds):
            left_out[name] = f"does not run {asr.model.describe()['architecture']}"
            report(f"{name}: {left_out[name]}")
        else:
            if not dense.exists():
                write_dense(model, language, dense)
            for precision in rival.precisions:
                system = f"{name} {precision}"
                report(f"preparing {system}")
                try:
                    places[system] = prepare(system, dense, language, folder)
                except PathwaysError as error:
                    left_out[system] = str(error)
                    report(f"left out: {error}")
    return places


class _Run:
    """The systems' processes for one count of threads; a rival that fails is left out, and its reason kept."""

    def __init__(
        self,
        places: Mapping[str, Path],
        language: str,
        threads: int,
        stack: ExitStack,
        left_out: dict[str, str],
        report: Report,
    ) -> None:
        self._left_out, self._report, self._idle = left_out, report, IDLE if threads > 1 else 0.0
        self._workers: dict[str, Worker] = {}
        for system, place in places.items():
            report(f"loading {system}, threads: {threads}")
            worker = self._try(system, lambda: Worker(system, place, language, threads))  # noqa: B023 - called at once
            if worker is not None:
                self._workers[system] = stack.enter_context(worker)

    def timed(self, clips: Sequence[Clip], folder: Path) -> list[dict[str, Any]]:
        """A row for each system: medians over `ROUNDS`, and of a length's clips their mean."""
        paths = [_saved(clip.samples, folder / f"clip-{index}.npy") for index, clip in enumerate(clips)]
        shortest = paths[min(range(len(clips)), key=lambda index: len(clips[index].samples))]
        self._all(shortest)  # what is made at the first call is not counted
        answers: dict[str, list[list[Answer]]] = {system: [] for system in self._workers}
        for turn in range(ROUNDS):
            self._report(f"round {turn + 1} of {ROUNDS}")
            found = [self._all(path) for path in paths]
            for system in self._workers:
                answers[system].append([one[system] for one in found])
        rows = []
        for system, worker in self._workers.items():
            rounds = answers[system]
            lengths = {clip.length: _length(clip.length, clips, rounds) for clip in clips}
            peak = max(answer.peak for one in rounds for answer in one)
            rows.append({"system": system, "load_s": worker.load, "peak_mib": peak, "clips": lengths})
        return rows

    def texts(self, recordings: Sequence[Any], folder: Path) -> dict[str, list[str]]:
        """What each system recognises."""
        path, found = folder / "utterance.npy", list[dict[str, Answer]]()
        for samples in recordings:
            found.append(self._all(_saved(samples, path)))
        return {system: [one[system].text for one in found] for system in self._workers}

    def _all(self, path: Path) -> dict[str, Answer]:
        """The systems in turn on one recording, one at a time."""
        answers = {}
        for system, worker in list(self._workers.items()):
            time.sleep(self._idle)
            answer = self._try(system, lambda: worker.transcribe(path))  # noqa: B023 - called at once
            if answer is None:
                del self._workers[system]
            else:
                answers[system] = answer
        return answers

    def _try(self, system: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except PathwaysError as error:
            if system == OURS:
                raise
            self._left_out[system] = str(error)
            self._report(f"left out: {error}")
            return None


def _length(length: str, clips: Sequence[Clip], rounds: Sequence[Sequence[Answer]]) -> dict[str, float | None]:
    indices = [index for index, clip in enumerate(clips) if clip.length == length]
    spent = [statistics.median(one[index].seconds for one in rounds) for index in indices]
    first = [one[index].first_token for one in rounds for index in indices]
    known = [seconds for seconds in first if seconds is not None]
    return {
        "seconds": statistics.mean(spent),
        "words": statistics.mean(len(rounds[-1][index].text.split()) for index in indices),
        "rtf": sum(spent) / sum(clips[index].seconds for index in indices),
        "first_token_s": statistics.median(known) if known else None,
    }


def _wer(cuts: Sequence[Any], texts: Sequence[str], free_text: bool) -> float:
    pairs = [
        pair(cut.id, cut.supervisions[0].language, cut.supervisions[0].text, text, free_text)
        for cut, text in zip(cuts, texts, strict=True)
    ]
    return score(pairs).languages[0].wer.rate


def _saved(samples: Any, path: Path) -> Path:
    np.save(path, samples)
    return path


def bytes_of(place: Path) -> int | None:
    """Of a file, or of all files in a folder; None for a name on the hub."""
    if place.is_dir():
        return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return place.stat().st_size if place.is_file() else None
