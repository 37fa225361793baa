from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import PathwayConfig, Pathways, observe
from asr_pathways.pruning.observe import FisherDiagonal, InputStatistics
from asr_pathways.pruning.prunable import find_prunable


def observed(model: nn.Module) -> InputStatistics:
    seen = InputStatistics(find_prunable(model, ("*",), ()))
    seen.hook()
    seen.recording = "en"
    return seen


def measured(seen: InputStatistics, pathway: str) -> dict[str, Tensor]:
    """What was seen up to now, all of it in one step."""
    seen.commit(["en", "fr"])
    return seen.rms(pathway)


def rms(x: Tensor) -> Tensor:
    """Over all dimensions but the last."""
    return x.detach().reshape(-1, x.shape[-1]).square().mean(0).sqrt()


def test_linear_layers_by_pathway() -> None:
    model = nn.Linear(4, 3)
    seen = observed(model)
    english, french = torch.randn(2, 5, 4), torch.randn(7, 4)
    model(english)
    seen.recording = "fr"
    model(input=french)
    seen.recording = None
    model(torch.full((9, 4), 100.0))
    torch.testing.assert_close(measured(seen, "en")["weight"], rms(english)[None])
    torch.testing.assert_close(measured(seen, "fr")["weight"], rms(french)[None])


def test_a_running_mean_forgets_slowly() -> None:
    model = nn.Linear(2, 2)
    seen = observed(model)
    model(torch.ones(3, 2))
    seen.commit(["en"])
    model(torch.full((1, 2), 2.0))
    old = 3 * observe.DECAY
    torch.testing.assert_close(measured(seen, "en")["weight"], torch.full((1, 2), ((old + 4) / (old + 1)) ** 0.5))


def test_convolutions_by_input_channel_and_group() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.Unflatten(1, (2, 3)), nn.Conv2d(2, 2, (1, 2)))
    seen = observed(model)
    x = torch.randn(2, 4, 8)
    middle = model[:2](x)
    model(x)
    torch.testing.assert_close(measured(seen, "en")["0.weight"], rms(x.movedim(1, -1)).view(2, 2), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(measured(seen, "en")["2.weight"], rms(middle.movedim(1, -1))[None])


def test_attention_by_query_key_and_value() -> None:
    query, key, value = torch.randn(3, 2, 8), torch.randn(5, 2, 8), torch.randn(5, 2, 8)
    packed = nn.MultiheadAttention(8, 2)
    seen = observed(packed)
    packed(query, key, value=value)
    expected = torch.stack([rms(query), rms(key), rms(value)])
    torch.testing.assert_close(measured(seen, "en")["in_proj_weight"], expected)
    assert "out_proj.weight" not in measured(seen, "en")

    apart = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
    seen = observed(apart)
    apart(query, key[..., :6], value[..., :4])
    torch.testing.assert_close(measured(seen, "en")["k_proj_weight"], rms(key[..., :6])[None])
    torch.testing.assert_close(measured(seen, "en")["v_proj_weight"], rms(value[..., :4])[None])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_by_input_and_hidden_state(kind: type[nn.RNNBase]) -> None:
    model = kind(4, 3, num_layers=2, bidirectional=True)
    seen = observed(model)
    x = torch.randn(6, 2, 4)
    output, state = model(x)
    last = state[0] if kind is nn.LSTM else state
    found = measured(seen, "en")
    torch.testing.assert_close(found["weight_ih_l0"], rms(x)[None])
    torch.testing.assert_close(found["weight_ih_l0_reverse"], rms(x)[None])
    torch.testing.assert_close(found["weight_hh_l1"], rms(output[..., :3])[None])
    torch.testing.assert_close(found["weight_hh_l1_reverse"], rms(output[..., 3:])[None])
    torch.testing.assert_close(found["weight_hh_l0_reverse"], rms(last[1])[None])
    torch.testing.assert_close(found["weight_ih_l1"], rms(torch.cat([last[0], last[1]], dim=-1))[None])


def test_packed_sequences_leave_padding_out() -> None:
    model = nn.LSTM(4, 3, batch_first=True)
    seen = observed(model)
    x = torch.randn(2, 5, 4)
    output, _ = model(pack_padded_sequence(x, torch.tensor([5, 2]), batch_first=True))
    kept = torch.cat([x[0], x[1, :2]])
    torch.testing.assert_close(measured(seen, "en")["weight_ih_l0"], rms(kept)[None])
    torch.testing.assert_close(measured(seen, "en")["weight_hh_l0"], rms(output.data)[None])


def test_cells_by_input_and_hidden_state() -> None:
    model = nn.LSTMCell(4, 3)
    seen = observed(model)
    x, hidden = torch.randn(2, 4), torch.randn(2, 3)
    model(x)
    assert "weight_hh" not in measured(seen, "en")
    model(x, (hidden, torch.zeros(2, 3)))
    torch.testing.assert_close(measured(seen, "en")["weight_hh"], rms(hidden)[None])


def test_an_overflow_does_not_spoil_what_was_seen() -> None:
    model = nn.Linear(2, 2)
    seen = observed(model)
    model(torch.ones(4, 2))
    model(torch.tensor([[float("inf"), float("nan")]]))
    assert measured(seen, "en")["weight"].isfinite().all()


def test_long_inputs_are_sampled_along_their_longest_dimension() -> None:
    model = nn.Linear(2, 2)
    seen = observed(model)
    x = torch.zeros(3, 100 * observe.POSITIONS, 2)
    x[:, ::2] = 1.0
    model(x)
    seen.commit(["en"])
    count = float(seen.state("en")["weight"][0, -1])
    assert observe.POSITIONS / 2 <= count <= 2 * observe.POSITIONS


@pytest.mark.parametrize("rows", [4, 8])
def test_inputs_of_many_dimensions_are_sampled_over_all_of_them(rows: int) -> None:
    """Of a convolution over time and frequency one step has more positions than are used: the first is not all."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    seen = InputStatistics(find_prunable(model, ("*",), ()))
    seen.hook()
    time, frequency = torch.meshgrid(torch.arange(60.0), torch.arange(40.0), indexing="ij")
    x = torch.stack([time, frequency]).expand(rows, -1, -1, -1)  # (B, C, T, F)
    seen.recording = "en"
    with torch.no_grad():
        model(x)
    seen.commit(["en"])
    exact = x.square().mean(dim=(0, 2, 3)).sqrt()
    torch.testing.assert_close(seen.rms("en")["0.weight"][0], exact, rtol=0.05, atol=0)
    seen.recording, seen.most = "fr", sys.maxsize  # as in calibration: all of it
    with torch.no_grad():
        model(x[:2, :, :4, :5])
    seen.commit(["fr"])
    assert float(seen.state("fr")["0.weight"][0, -1]) == 2 * 4 * 5


def test_the_encoder_of_torch_is_seen_in_evaluation_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    seen = observed(model)
    padding = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])
    with torch.inference_mode():
        model(torch.randn(2, 6, 8), src_key_padding_mask=padding)
    found = measured(seen, "en")
    unseen = {f"layers.{n}.self_attn.out_proj.weight" for n in range(2)}
    assert {one.name for one in find_prunable(model, ("*",), ())} - set(found) == unseen


def test_state_goes_over_to_a_copy() -> None:
    model = nn.Linear(4, 3)
    seen, other = observed(model), observed(nn.Linear(4, 3))
    model(torch.randn(5, 4))
    seen.commit(["en"])
    other.load_state("en", seen.state("en"))
    assert torch.equal(other.rms("en")["weight"], measured(seen, "en")["weight"])
    assert other.rms("fr") == {}


def test_the_batches_of_a_step_count_alike() -> None:
    model = nn.Linear(4, 3)
    together, apart = observed(model), observed(model)
    x = torch.randn(6, 4)
    model(torch.randn(3, 4))
    together.commit(["en"])
    apart.load_state("en", together.state("en"))
    apart.forget("en")
    model(x)
    together.recording = None
    together.commit(["en"])
    apart.forget("en")
    model(x[:3])
    model(x[3:])
    apart.commit(["en"])
    torch.testing.assert_close(apart.rms("en"), together.rms("en"))


def test_the_diagonal_of_fisher_is_of_the_gradients_of_single_positions() -> None:
    """Against a backward pass for each position that is not padding; in several batches of a step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    seen = FisherDiagonal(find_prunable(model, ("*",), ()))
    seen.hook()
    valid, batches = torch.tensor([[True, True, True], [True, False, False]]), torch.randn(2, 2, 3, 3)
    seen.unpadded = {"*": valid}
    for batch in batches:
        seen.recording = "en"
        model(batch).square().sum().backward()
        seen.recording = None
        model(batch).sum().backward()  # nothing of that counts
    seen.commit(["en"])
    expected = {"0.weight": torch.zeros(4, 3), "2.weight": torch.zeros(2, 4)}
    rows = torch.cat([batch[valid] for batch in batches])
    for row in rows:
        gradients = torch.autograd.grad(model(row).square().sum(), [model[0].weight, model[2].weight])
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += gradient.square() / len(rows)
    of = seen.evidence("en")
    for name, value in expected.items():
        torch.testing.assert_close(of(name), value.sqrt())

    other = FisherDiagonal(find_prunable(model, ("*",), ()))
    other.load_state("en", seen.state("en"))
    assert all(torch.equal(other.evidence("en")(name), of(name)) for name in expected)


def test_the_diagonal_of_fisher_is_the_same_however_a_layer_is_called() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    found = []
    for run in (lambda: layer(x), lambda: layer(input=x), lambda: torch.stack([layer(row) for row in x])):
        seen = FisherDiagonal(find_prunable(layer, ("*",), ()))
        removers = seen.hook()
        seen.recording = "en"
        run().square().sum().backward()
        seen.commit(["en"])
        found.append(seen.evidence("en")("weight"))
        for remove in removers:
            remove()
    assert all(torch.allclose(one, found[0]) for one in found)


def test_the_diagonal_of_fisher_counts_every_layer_that_has_the_weight() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    seen = FisherDiagonal(find_prunable(nn.ModuleList([first, second]), ("*",), ()))
    seen.hook()
    x, y = torch.randn(2, 5, 3)
    seen.recording = "en"
    (first(x).square().sum() + second(y).square().sum()).backward()
    seen.commit(["en"])
    rows = torch.cat([x, y])
    gradients = 2 * (rows @ first.weight.detach().T)[:, :, None] * rows[:, None]
    torch.testing.assert_close(seen.evidence("en")("0.weight"), gradients.square().mean(dim=0).sqrt())


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [False, False, False]),
        ({"adapt_every": 1, "adapt_until": 2}, [True, False, False]),
        ({"schedule": "linear", "prune_every": 2, "prune_stages": 2}, [True, False, False]),
        ({"adapt_every": 2}, [True, True, True]),
    ],
)
def test_the_diagonal_of_fisher_is_kept_while_masks_may_change(options: dict[str, Any], kept: list[bool]) -> None:
    """It is as large as the weights, in memory and in checkpoints; without it a mask can be calibrated for."""
    model = nn.Linear(4, 4).train()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="fisher", **options), ["en"])

    def calibrate() -> None:
        with pathways.calibrate("en"):
            model(torch.randn(3, 4)).square().sum().backward()

    calibrate()
    assert pathways.state_dict()["statistics"]["en"]
    found = []
    for _ in kept:
        with pathways.use("en"):
            model(torch.randn(3, 4)).square().sum().backward()
        pathways.step()
        found.append(bool(state := pathways.state_dict()["statistics"]["en"]))
    assert found == kept
    if state:
        return
    pathways.load_state_dict(pathways.state_dict())
    with pytest.raises(PathwaysError, match="no gradient of 'en' was observed yet"):
        pathways.adapt("en")
    calibrate()
    assert pathways.adapt("en").score == "fisher"


def test_positions_that_are_numbers_are_refused() -> None:
    """Such as an attention mask of transformers, whose zeros and ones would be taken for rows."""
    pathways = Pathways.attach(nn.Linear(3, 3), PathwayConfig(sparsity=0.5, score="activation"), ["en"])
    with pytest.raises(PathwaysError, match=r"unpadded: \* is torch.int64, not torch.bool: pass mask.bool\(\)"):
        pathways.unpadded({"*": torch.ones(2, 4, dtype=torch.int64)})


def test_a_tensor_without_a_diagonal_of_fisher_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 2, 1))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="fisher"), ["en"])
    with pytest.raises(PathwaysError, match=r"no gradient of 'en' was observed yet: run a backward pass"):
        pathways.adapt("en")
    with pathways.calibrate("en"):
        model(torch.randn(2, 3, 3)).sum().backward()
    with pytest.raises(
        PathwaysError, match=r"output of 1.weight .* for 'en': it is for linear layers .*: exclude others"
    ):
        pathways.adapt("en")
