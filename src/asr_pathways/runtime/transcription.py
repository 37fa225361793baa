"""Audio files or a microphone to text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import languages_of, load_cuts
from asr_pathways.data.languages import code_in_data, find_language
from asr_pathways.data.live import Sound, live_blocks
from asr_pathways.data.progress import track
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.wer import Utterance, require_words
from asr_pathways.model_folder.decode import pair, reference_text
from asr_pathways.runtime.recognizer import Recognizer, recording
from asr_pathways.runtime.results import Result, Segment
from asr_pathways.runtime.stream import StreamResult

CHUNK = 0.32
"""Seconds of audio in each step of streaming."""


def transcribe_stream(
    recognizer: Recognizer, path: Path, language: str, channel: int | None
) -> Iterator[tuple[Result, bool]]:
    """Decodes a recording `CHUNK` seconds at a time; yields the hypothesis after each, and whether it is final.

    Raises:
        PathwaysError: if the file cannot be read as audio or is too short, or the language is unknown.
    """
    stream = recognizer.stream(language)
    samples = recording(path, channel=channel)
    seconds = len(samples) / SAMPLE_RATE
    step = round(CHUNK * SAMPLE_RATE)
    for start in range(0, len(samples), step):
        stream.accept(samples[start : start + step])
        yield _result(stream.partial(), seconds)
    yield _result(stream.final(), seconds)


def transcribe_live(
    recognizer: Recognizer,
    sound: Sound,
    language: str,
    rate: int,
    encoding: str,
    channel: int | None,
) -> Iterator[tuple[Result, bool]]:
    """Decodes a WAV stream, or raw samples of ``rate`` and ``encoding``, as they are read, until ``sound`` ends.

    Yields the hypothesis of a segment after each `CHUNK` seconds, and the final one once silence has ended it.

    Raises:
        PathwaysError: for an unknown language, or as `data.live.live_blocks` does.
    """
    stream = recognizer.stream(language)
    for samples, its_rate in live_blocks(sound, CHUNK, rate, encoding, channel):
        stream.accept(samples, its_rate)
        result = stream.final() if stream.partial().text and stream.endpoint() else stream.partial()
        yield _result(result, result.end - result.start)
    if (last := stream.final()).text:
        yield _result(last, last.end - last.start)


def recognize_split(recognizer: Recognizer, data: Path, split: str, languages: Sequence[str] | None) -> list[Utterance]:
    """Recognises a split of a data folder, one utterance after another, as a user's recordings are.

    Raises:
        PathwaysError: for a language that the model does not know, or if the data folder is broken or has none of the
            languages, or one has no words in references.
    """
    present, known = languages_of(load_cuts(data, split)), recognizer.languages
    if languages:
        chosen = tuple(dict.fromkeys(code_in_data(code, present, known) for code in languages))
    else:
        chosen = tuple(language for language in present if find_language(language, known)) or known
    cuts = list(load_cuts(data, split, chosen))
    spoken = [cut.supervisions[0] for cut in cuts]
    require_words((one.language, reference_text(one.text, one.language, recognizer.free_text)) for one in spoken)
    utterances = []
    for cut, reference in track(zip(cuts, spoken, strict=True), "Recognising", len(cuts), lambda _: 1):
        text = recognizer.transcribe(read_cut(cut), language=reference.language).text
        utterances.append(pair(cut.id, reference.language, reference.text, text, recognizer.free_text))
    if not utterances:
        raise PathwaysError("nothing to evaluate: the split has no utterances in the languages asked for")
    return sorted(utterances, key=lambda utterance: utterance.language)


def _result(result: StreamResult, seconds: float) -> tuple[Result, bool]:
    segments = (Segment(result.text, result.start, result.end, result.language, result.words),) if result.text else ()
    return Result(result.text, result.language, segments, seconds), result.final
