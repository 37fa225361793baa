from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from asr_pathways.export.onnx import Exported
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.runtime.fast_conformer import TorchProducts
from benchmarks import beam_search, bundle, bundle_mutations, exports, hub_streaming, hub_streaming_onnx


def test_a_bundle_is_smaller_than_what_it_stands_for() -> None:
    found = bundle.measure("micro", bundle.random_model("micro"), runs=1)
    assert 0.4 < found["union_density"] < 0.55  # type: ignore[operator]
    assert found["ratio_to_dense"] <= 0.75  # type: ignore[operator]
    assert found["ratio_to_separate"] <= 0.5  # type: ignore[operator]
    assert found["int8_bytes"] < found["float16_bytes"] < found["float32_bytes"]  # type: ignore[operator]
    assert found["mask_bits"] == pytest.approx(1 + 5 * found["union_density"], abs=0.02)  # type: ignore[operator]


def test_mutations_are_counted(five_file: Path) -> None:
    found = bundle_mutations.measure(five_file, 20)
    assert sum(count for kind, count in found.items() if kind.startswith(("bytes", "contents"))) == 20  # type: ignore[misc]


def test_exports_are_compared(five: AsrModel, exported_five: list[Exported], speech: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa_onnx is not installed: pip install '.[export]'")
    found = exports.size_and_time(exported_five[0], runs=1)
    assert found["largest_difference"] == exported_five[0].difference
    assert (found["bytes"] > 0, found["chunk_audio_ms"]) == (True, 160)  # type: ignore[operator]
    tokens = exports.compare(five, exported_five, speech)
    assert tokens["same"] == tokens["utterances"] == 4


def test_searches_are_compared(five: AsrModel, speech: Path) -> None:
    found = beam_search.measure(five, speech, every=2)
    assert found["utterances"] == 2
    searches = [(one["beam"], one["bonus"]) for one in found["searches"]]  # type: ignore[attr-defined]
    assert searches == [(1, None), (4, None), (8, None), (4, 2.0), (8, 2.0)]
    assert all(one["cpu_seconds_a_second_of_audio"] > 0 for one in found["searches"])  # type: ignore[attr-defined]


def test_steps_of_a_hub_stream_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "subsampling_conv_channels": 8}
    hub = hub_streaming.random_network(1, 0.7, encoder, vocab_size=40, blank_token_id=39, decoder_hidden_size=16)
    assert 0.65 < float((hub.encoder.layers[0].feed_forward1.linear1.weight == 0).float().mean()) < 0.75
    found = hub_streaming.measure(1, hub, copy.deepcopy(hub).bfloat16(), rounds=1)
    assert len(found["rtf"]) == 7 and all(one > 0 for one in found["rtf"].values())
    assert set(found["formats"]) == {"float32", "auto"}


def test_graphs_of_a_step_compute_what_it_does() -> None:
    """The modules that are exported; exporting them takes long."""
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf]'")
    encoder = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "subsampling_conv_channels": 8}
    hub = hub_streaming.random_network(1, 0.7, encoder, vocab_size=40, blank_token_id=39, decoder_hidden_size=16)
    with torch.inference_mode():
        step = hub_streaming.Step(hub, 1, TorchProducts())
        network, caches = step.network, hub_streaming_onnx.flat(step.state)
        graph = hub_streaming_onnx.EncoderGraph(network, step.state)
        for _ in range(3):
            features = torch.randn(16, hub_streaming.MELS)
            encodings, *caches = graph(features, *caches)
            torch.testing.assert_close(encodings, step.encode(features))
        torch.testing.assert_close(caches, hub_streaming_onnx.flat(step.state))
        hidden, cell = (torch.cat(list(part)) for part in step.predicted[1:])
        output, hidden, cell = hub_streaming_onnx.PredictorGraph(network)(torch.tensor([7]), hidden, cell)
        after = network.predict(7, step.predicted)
        torch.testing.assert_close((output, hidden, cell), (after.output, *(torch.cat(list(p)) for p in after[1:])))
        scores = hub_streaming_onnx.JoinerGraph(network)(encodings, output)
        torch.testing.assert_close(scores, network.join(encodings, after))
