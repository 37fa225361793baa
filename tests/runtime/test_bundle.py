from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_pathways.model_folder import Recognizer
from asr_pathways.runtime.bundle import Bundle, write_bundle


@pytest.mark.parametrize("name", ["five", "five.asrp"])
def test_an_exact_bundle_comes_back_bit_for_bit(name: str, five: Recognizer, tmp_path: Path) -> None:
    assert five.pathways is not None
    sizes = write_bundle(five, tmp_path / name, "float32")
    bundle = Bundle.open(tmp_path / name)
    bundle.verify()
    assert bundle.languages == five.languages
    found = bundle.recognizer()
    assert found.card == five.card
    assert found.pathways is not None
    for language in five.languages:
        expected = five.pathways.extract(language)
        for state in (bundle.weights(language), found.pathways.extract(language)):
            assert state.keys() == expected.keys()
            assert all(torch.equal(value, state[name]) for name, value in expected.items())
        masks = bundle.mask(language)
        assert all(torch.equal(mask, masks[name]) for name, mask in five.pathways.mask(language).items())
    files = [tmp_path / name] if name.endswith(".asrp") else list((tmp_path / name).iterdir())
    assert sizes.total == sum(path.stat().st_size for path in files)
    assert sizes.masks.keys() == set(five.languages)
