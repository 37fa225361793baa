from __future__ import annotations

import math

import torch

from asr_pathways.pruning.scores import Evidence, activation, gradient, magnitude


def test_magnitude_is_scored_in_float32() -> None:
    scores = magnitude(Evidence(torch.tensor([[-3.0, 2.0]], dtype=torch.bfloat16)))
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[3.0, 2.0]]


def test_activation_weighs_each_column_by_the_rms_of_its_input() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert activation(Evidence(weight, input_rms=torch.tensor([[10.0, 0.5]]))).tolist() == [[10.0, 1.0], [30.0, 2.0]]


def test_a_power_below_one_heeds_inputs_less() -> None:
    evidence = Evidence(torch.tensor([[1.0, -2.0]]), input_rms=torch.tensor([[9.0, 0.25]]))
    assert activation(evidence, 0.5).tolist() == [[3.0, 1.0]]
    assert torch.equal(activation(evidence, 1.0), activation(evidence))


def test_groups_of_rows_have_inputs_of_their_own() -> None:
    weight = torch.ones(4, 2, 3)  # two groups of two output channels, two input channels each, kernel of three
    scores = activation(Evidence(weight, input_rms=torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert scores[:, :, 0].tolist() == [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]
    assert torch.equal(scores[..., 0], scores[..., 2])


def test_activation_of_a_tensor_whose_inputs_were_not_seen_is_its_magnitude() -> None:
    weight = torch.randn(3, 3)
    assert torch.equal(activation(Evidence(weight)), weight.abs())


def test_overflowed_gradients_count_as_the_largest_and_undefined_ones_as_none() -> None:
    given = Evidence(torch.zeros(1, 3), gradient=torch.tensor([[-math.inf, math.nan, 2.0]]))
    assert gradient(given).tolist() == [[torch.finfo(torch.float32).max, 0.0, 2.0]]
