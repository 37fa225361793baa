"""Options of decoding in a checkpoint are for other programs: greedy search is the same, and the file stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_json
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways

Maker = Callable[[str], Path]
ODD: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "stop_strings": ["a"],
    "num_return_sequences": 3,
    "num_beams": 4,
    "do_sample": True,
    "temperature": 9.0,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "forced_eos_token_id": 3,
    "max_time": 0.0,
    "max_length": 3,
    "prompt_lookup_num_tokens": 3,
    "guidance_scale": 3.0,
    "sequence_bias": [[[7], 9.0]],
    "bad_words_ids": [[7]],
    "use_cache": False,
    "exponential_decay_length_penalty": [1, 2.0],
    "dola_layers": "low",
    "penalty_alpha": 0.6,
    "token_healing": True,
    "compile_config": {},
}


def decoded(asr: AsrModel) -> list[list[int]]:
    torch.manual_seed(3)
    width = asr.model.frontend(torch.randn(16_000).numpy()).shape[-1]
    return asr.model.decode(torch.randn(2, 80, width), torch.tensor([80, 60]), "en")


@pytest.mark.parametrize("kind", ["whisper", "parakeet_rnnt", "parakeet_tdt", "nemotron"])
def test_options_of_decoding_neither_break_nor_change_it(kind: str, hub_folder: Maker, tmp_path: Path) -> None:
    expected = decoded(load_model(hub_folder(kind)))
    folder, again = tmp_path / "odd", tmp_path / "again"
    shutil.copytree(hub_folder(kind), folder)
    path = folder / "generation_config.json"
    stated = read_json(path)
    for name, value in [*ODD.items(), ("all", ODD)]:
        path.write_text(json.dumps({**stated, **({name: value} if name != "all" else ODD)}))
        asr = load_model(folder)
        assert decoded(asr) == expected, name
    save_model(again, asr)
    assert read_json(again / "generation_config.json") == {**stated, **ODD}
    asr.pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.0), ["en", "fr"])
    write_bundle(asr, tmp_path / "odd.asrp", "float32")
    assert decoded(load_model(tmp_path / "odd.asrp")) == expected


def test_tokens_that_whisper_never_writes_are_obeyed(hub_folder: Maker, tmp_path: Path) -> None:
    """The published checkpoints name some."""
    first = decoded(load_model(hub_folder("whisper")))[0][0]
    folder = tmp_path / "whisper"
    shutil.copytree(hub_folder("whisper"), folder)
    path = folder / "generation_config.json"
    stated = read_json(path)
    path.write_text(json.dumps({**stated, "suppress_tokens": [first]}))
    assert first not in decoded(load_model(folder))[0]
    path.write_text("[]")
    with pytest.raises(PathwaysError, match="not a JSON object"):
        load_model(folder)
