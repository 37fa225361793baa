from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.bundle.load import load_model
from asr_pathways.data.corpus import load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment import cells
from asr_pathways.models.transducer import Transducer

TEST = {"splits": ["test"], "utterances": 0}


def test_recordings_longer_than_the_models_window_are_tested_in_parts(
    dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asr = load_model(dense_model)
    longest = max(cut.duration for cut in load_cuts(speech, "test", ["fr"]))
    whole, samples = cells._test(asr, speech, TEST)
    assert samples["fr"]["language"] == "fr" and samples["fr"]["reference"]
    monkeypatch.setattr(Transducer, "window", longest - 0.01)
    parts, _ = cells._test(asr, speech, TEST)
    for language, tested in parts.items():
        assert tested.utterances == whole[language].utterances
    assert parts["fr"].loss != whole["fr"].loss  # of the others only
    with pytest.raises(PathwaysError, match="all utterances of en are longer than the model's"):
        cells._loss(asr, [], "en")
