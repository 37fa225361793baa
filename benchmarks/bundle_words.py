"""The words of a model's folder, by the training side, beside those of its bundles, by `Recognizer`.

python -m benchmarks.bundle_words runs/dynamic-70 --data data/prompts --json results/bundle_words.json
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_pathways.bench.run import machine
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.progress import track
from asr_pathways.evaluation.wer import Utterance, score
from asr_pathways.files import write_json
from asr_pathways.model_folder.decode import decode_cuts
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.runtime.transcription import recognize_split

SYSTEMS = (("float32", "float32"), ("float32", "auto"), ("float16", "auto"), ("int8", "auto"))
"""Of bundles: how weights are stored, and the precision of products."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a MODEL folder with pathways")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    asr = load_model(options.model)
    languages = set(asr.languages)
    cuts = [cut for cut in load_cuts(options.data, options.split) if cut.supervisions[0].language in languages]
    # One at a time, as a recogniser has them: in a batch, a window is as long as its longest utterance.
    folder = [one for cut in track(cuts, "Folder") for one in decode_cuts(asr, [cut], progress=False)]
    expected = {one.id: one.hypothesis for one in folder}
    rows = [_row("folder, torch", folder, expected)]
    with tempfile.TemporaryDirectory() as temporary:
        for dtype, precision in SYSTEMS:
            path = Path(temporary) / f"{dtype}.asrp"
            if not path.exists():
                write_bundle(asr, path, dtype)  # type: ignore[arg-type]
            recognizer = Recognizer(path, precision=precision)  # type: ignore[arg-type]
            found = recognize_split(recognizer, options.data, options.split, sorted(languages))
            rows.append(_row(f"bundle in {dtype}, products {precision}", found, expected))
    result = {"machine": machine(), "model": options.model.name, "data": options.data.name, "rows": rows}
    if options.json is not None:
        write_json(options.json, result)


def _row(system: str, utterances: Sequence[Utterance], expected: dict[str, str]) -> dict[str, Any]:
    scores = score(list(utterances))
    row = {
        "system": system,
        "mean_wer": round(scores.mean_wer, 5),
        "wer": {one.language: round(one.wer.rate, 4) for one in scores.languages},
        "words": sum(one.words for one in scores.languages),
        "other_words_in": sum(one.hypothesis != expected[one.id] for one in utterances),
        "utterances": len(utterances),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
