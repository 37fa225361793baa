from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.scores import SCORES, Activation, Evidence, Fisher, Gradient, Magnitude, Score


def test_magnitude_is_scored_in_float32() -> None:
    scores = Magnitude().of(Evidence(torch.tensor([[-3.0, 2.0]], dtype=torch.bfloat16)))
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[3.0, 2.0]]


def test_activation_weighs_each_column_by_the_rms_of_its_input() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    scores = Activation().of(Evidence(weight, inputs=torch.tensor([[10.0, 0.5]])))
    assert scores.tolist() == [[10.0, 1.0], [30.0, 2.0]]


def test_a_power_below_one_depends_less_on_inputs() -> None:
    evidence = Evidence(torch.tensor([[1.0, -2.0]]), inputs=torch.tensor([[9.0, 0.25]]))
    assert Activation(0.5).of(evidence).tolist() == [[3.0, 1.0]]
    assert torch.equal(Activation(1.0).of(evidence), Activation().of(evidence))


def test_groups_of_rows_have_different_inputs() -> None:
    weight = torch.ones(4, 2, 3)  # two groups of two output channels, two input channels each, kernel of three
    scores = Activation().of(Evidence(weight, inputs=torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert scores[:, :, 0].tolist() == [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]
    assert torch.equal(scores[..., 0], scores[..., 2])


def test_activation_of_a_tensor_whose_inputs_were_not_seen_is_its_magnitude() -> None:
    weight = torch.randn(3, 3)
    assert torch.equal(Activation().of(Evidence(weight)), weight.abs())


def test_where_inputs_were_all_zero_magnitude_decides() -> None:
    """A layer that dropout of layers silenced, or inputs that overflowed: its mask is not to be its first weights."""
    weight = torch.tensor([[0.1, -2.0, 3.0], [0.3, 0.2, 0.1]])
    nothing, some = (Activation().of(Evidence(weight, inputs=torch.tensor([row]))) for row in ([0, 0, 0], [0, 0, 1e-9]))
    assert torch.equal(nothing.flatten().argsort(), weight.abs().flatten().argsort())
    assert some.flatten().argsort(descending=True).tolist() == [2, 5, 1, 3, 4, 0]


def test_fisher_is_the_root_of_optimal_brain_damage() -> None:
    evidence = Evidence(torch.tensor([[1.0, -2.0], [3.0, 0.5]]), fisher=torch.tensor([[4.0, 0.25], [0.0, 0.0]]))
    scores = Fisher().of(evidence)
    assert scores[0].tolist() == [4.0, 0.5] and scores[1].max() < 1e-20
    assert scores.flatten().argsort(descending=True).tolist() == [0, 1, 2, 3]
    assert Fisher(0.5).of(evidence)[0].tolist() == [2.0, 1.0]
    assert torch.equal(Fisher(0.5).across(evidence), scores)


def test_tensors_are_compared_by_the_whole_of_fisher() -> None:
    """What a tensor keeps is the mean of uniform and global counts at a power of 1, by its scores at a lower one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    config = PathwayConfig(sparsity=0.6, score="fisher", activation_power=0.5, allocation="blended")
    pathways = Pathways.attach(model, config, ["en"])
    with pathways.calibrate("en"):
        model(torch.randn(1, 8)).square().sum().backward()  # one position: the gradients are their own rms
    pathways.adapt("en")
    weights = {name: model.get_parameter(name).detach() for name in pathways.names}
    gradients = {name: model.get_parameter(name).grad.abs() for name in pathways.names}
    whole = torch.cat([(weights[name].abs() * gradients[name]).flatten() for name in weights])
    least = whole.sort(descending=True).values[round(0.4 * len(whole)) - 1]
    for name, mask in pathways.mask("en").items():
        by_all = int((weights[name].abs() * gradients[name] >= least).sum())
        assert abs(int(mask.sum()) - (by_all + round(0.4 * mask.numel())) / 2) <= 1
        scores = weights[name].abs() * gradients[name].sqrt()
        assert scores[mask].min() >= scores[~mask].max() * (1 - 1e-5)


def test_overflowed_gradients_count_as_the_largest_and_undefined_ones_as_none() -> None:
    evidence = Evidence(torch.zeros(1, 3), gradients=torch.tensor([[-math.inf, math.nan, 2.0]]))
    assert Gradient().of(evidence).tolist() == [[torch.finfo(torch.float32).max, 0.0, 2.0]]


@pytest.fixture
def smallness() -> Iterator[None]:
    """A cousin of magnitude: one class, and the smallest are kept."""

    class Smallness(Score):
        name = "smallness"

        def of(self, evidence: Evidence) -> torch.Tensor:
            return 1 / (1 + Magnitude().of(evidence))

    yield
    del SCORES[Smallness.name]


def test_a_new_score_is_one_class(smallness: None) -> None:
    model = nn.Sequential(nn.Linear(6, 6))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="smallness", hysteresis=0.01), ["en", "fr"])
    (mask,) = pathways.mask("en").values()
    magnitudes = model[0].weight.abs()
    assert magnitudes[mask].max() <= magnitudes[~mask].min()
    with torch.no_grad():
        model[0].weight.copy_(1 / model[0].weight)
    assert pathways.adapt("en").score == "smallness"
    assert not torch.equal(pathways.mask("en")["0.weight"], mask)
    with pytest.raises(PathwaysError, match="score smallness needs no calibration"), pathways.calibrate("en"):
        pass


def test_a_new_score_may_need_what_others_do() -> None:
    class Saliency(Score):
        """|theta * g| of the last step."""

        name = "saliency"
        needs = frozenset({"gradients"})

        def of(self, evidence: Evidence) -> torch.Tensor:
            return Magnitude().of(evidence) * Gradient().of(evidence)

    try:
        model = nn.Sequential(nn.Linear(6, 6, bias=False))
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="saliency", adapt_every=1), ["en"])
        x = torch.randn(5, 6)
        with pathways.use("en"):
            model(x).square().sum().backward()
        (event,) = pathways.step()
        expected = (model[0].weight * model[0].weight.grad).abs()
        (mask,) = pathways.mask("en").values()
        assert event.score == "saliency" and event.changed > 0
        assert expected[mask].min() >= expected[~mask].max()
    finally:
        del SCORES["saliency"]
