from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.prunable import find_prunable, matching
from tests.pruning.conftest import Recogniser


def names(model: nn.Module, include: tuple[str, ...] = ("*",), exclude: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in find_prunable(model, include, exclude)]


def test_weight_matrices_are_prunable_and_norms_biases_and_embeddings_are_not(recogniser: Recogniser) -> None:
    recurrent = [
        f"recurrent.weight_{kind}_l{n}{way}" for n in (0, 1) for way in ("", "_reverse") for kind in ("ih", "hh")
    ]
    others = ["attention.in_proj_weight", "attention.out_proj.weight", "output.weight"]
    assert names(recogniser) == ["convolution.weight", *recurrent, *others]


def test_other_layers() -> None:
    model = nn.ModuleDict(
        {
            "image": nn.Conv2d(2, 4, 3),
            "gru": nn.GRU(3, 4, bias=False),
            "cell": nn.LSTMCell(3, 4),
            "projected": nn.LSTM(3, 4, proj_size=2),
            "cross": nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            "batch_norm": nn.BatchNorm1d(4),
        }
    )
    assert names(model) == [
        "image.weight",
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
        "cell.weight_ih",
        "cell.weight_hh",
        "projected.weight_ih_l0",
        "projected.weight_hh_l0",
        "projected.weight_hr_l0",
        "cross.q_proj_weight",
        "cross.k_proj_weight",
        "cross.v_proj_weight",
        "cross.out_proj.weight",
    ]


def test_patterns_name_parameters_or_modules(recogniser: Recogniser) -> None:
    assert names(recogniser, include=("attention",), exclude=("*.out_proj.*",)) == ["attention.in_proj_weight"]
    assert names(recogniser, include=("*.weight",), exclude=("attention", "conv*")) == ["output.weight"]


@pytest.mark.parametrize("patterns", [{"include": ("decoder",)}, {"exclude": ("outptu",)}])
def test_a_pattern_that_matches_nothing_is_a_slip(recogniser: Recogniser, patterns: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(PathwaysError, match="matches no parameter"):
        names(recogniser, **patterns)


def test_patterns_for_several_kinds_of_model_are_narrowed_to_one(recogniser: Recogniser) -> None:
    assert matching(recogniser, ("output", "ctc_output", "*.out_proj", "joiner.*")) == ("output", "*.out_proj")


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(PathwaysError, match="nothing to prune"):
        names(nn.Sequential(nn.LayerNorm(3), nn.Embedding(2, 2)))


def test_a_shared_weight_counts_once_under_its_first_name() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second, first)
    (prunable,) = find_prunable(model, ("*",), ())
    assert prunable.name == "0.weight"
    assert prunable.names == ("0.weight", "2.weight", "3.weight")
    assert prunable.owners == ((first, "weight"), (second, "weight"))


def test_a_weight_tied_to_an_embedding_or_to_an_excluded_name_is_left_alone() -> None:
    embedding, output, inner = nn.Embedding(9, 4), nn.Linear(4, 9), nn.Linear(4, 4)
    output.weight = embedding.weight
    assert names(nn.Sequential(embedding, inner, output)) == ["1.weight"]
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    assert names(model, exclude=("b",)) == ["c.weight"]


def test_computed_and_empty_weights_are_left_alone() -> None:
    computed = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3))
    assert names(nn.Sequential(computed, nn.Linear(0, 3), nn.Linear(3, 3))) == ["2.weight"]


def test_of_a_recurrent_layer_whose_weights_are_normalised_only_the_others_are_prunable() -> None:
    """The magnitudes that `weight_norm` computes one from are not a matrix: a zero there is a row of zeros."""
    normalised = nn.LSTM(4, 4)
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(normalised, "weight_hh_l0")
    assert names(normalised) == ["weight_ih_l0"]


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv1d(4, 4, 2), nn.LSTM(4, 4), nn.GRUCell(4, 4)])
def test_a_layer_that_torch_prunes_is_named_until_that_ends(layer: nn.Module) -> None:
    model = nn.ModuleDict({"other": nn.Linear(4, 4), "mine": copy.deepcopy(layer)})
    attribute = next(name for name, _ in layer.named_parameters() if name.startswith("weight"))
    prune.l1_unstructured(model["mine"], attribute, 0.5)
    with pytest.raises(PathwaysError, match=f"mine.{attribute} is masked by torch.nn.utils.prune: end that by its rem"):
        find_prunable(model, ("*",), ())
    assert [one.name for one in find_prunable(model, ("*",), ("mine",))] == ["other.weight"]
    assert [one.name for one in find_prunable(model, ("other",), ())] == ["other.weight"]
    prune.remove(model["mine"], attribute)
    assert f"mine.{attribute}" in [one.name for one in find_prunable(model, ("*",), ())]


def test_what_torch_prunes_beside_weight_matrices_is_no_hindrance() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "output": nn.Linear(4, 4)})
    prune.l1_unstructured(model["embedding"], "weight", 0.5)
    prune.l1_unstructured(model["output"], "bias", 0.5)
    assert names(model) == ["output.weight"]
