"""Granularity ``neurons``: what two layers share is kept or dropped whole, whatever else pathways do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.refit.refitting import Refitting
from asr_pathways.pruning.storage import read_folder

PAIRS = (("fc1", "fc2"),)
LANGUAGES = ("en", "fr")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 20), nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x)
        return x + self.fc2(F.gelu(self.fc1(x)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def attached(model: nn.Module, languages: Sequence[str] = LANGUAGES, **options: object) -> Pathways:
    values = {"sparsity": 0.5, "granularity": "neurons", "pairs": PAIRS, **options}
    return Pathways.attach(model, PathwayConfig.model_validate(values), languages)


def frames(seed: int, count: int = 200) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def train(model: nn.Module, pathways: Pathways, steps: int, **options: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, **options)
    model.train()
    for step in range(steps):
        for place, language in enumerate(LANGUAGES):
            x = frames(10 * step + place) * (torch.arange(6) // 3 == place)
            with pathways.use(language):
                model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            pathways.step(optimizer)
    model.eval()


def assert_whole(pathways: Pathways, keep: int = 10) -> None:
    for language in pathways.languages:
        mask = pathways.mask(language)
        for first, second in zip(pathways.names[::2], pathways.names[1::2], strict=True):
            assert torch.equal(mask[first].all(dim=1), mask[first].any(dim=1))
            assert torch.equal(mask[second], mask[first][:, 0].expand(6, -1))
            assert int(mask[first][:, 0].sum()) == keep


def test_only_pairs_are_pruned_and_to_exactly_k(model: nn.Module) -> None:
    pathways = attached(model, sparsity=0.32)
    assert pathways.names == ("0.fc1.weight", "0.fc2.weight", "1.fc1.weight", "1.fc2.weight")
    assert_whole(pathways, keep=14)  # 20 - round(6.4)
    assert pathways.summary().sparsity == pytest.approx({"en": 0.3, "fr": 0.3})
    assert pathways.neurons("fr").keys() == {"0.fc1.weight", "1.fc1.weight"}


def test_a_neuron_scores_what_both_of_its_weights_do_and_ties_go_by_index(model: nn.Module) -> None:
    with torch.no_grad():
        for block in model:
            block.fc1.weight.fill_(0.1)
            block.fc2.weight.fill_(0.1)
        model[0].fc1.weight[17] = 0.2
        model[0].fc2.weight[:, 19] = -0.2
    kept = attached(model).neurons("en")
    assert kept["0.fc1.weight"].nonzero().view(-1).tolist() == [*range(8), 17, 19]
    assert kept["1.fc1.weight"].nonzero().view(-1).tolist() == [*range(10)]


def test_both_weights_count_whatever_their_sizes(model: nn.Module) -> None:
    plain, scaled = attached(model), copy.deepcopy(model)
    with torch.no_grad():
        for block in scaled:
            block.fc1.weight *= 1024
    kept = attached(scaled).neurons("en")
    assert all(torch.equal(mask, kept[name]) for name, mask in plain.neurons("en").items())


def test_the_forward_pass_is_that_of_the_extracted_model_to_the_bit(model: nn.Module) -> None:
    pathways, alone = attached(model), copy.deepcopy(model)
    alone.load_state_dict(pathways.extract("fr"))
    assert not torch.equal(alone[0].fc1.weight, model[0].fc1.weight)
    with pathways.use("fr"):
        out = model(frames(0))
    assert torch.equal(out, alone(frames(0)))


def test_the_bias_of_a_dropped_neuron_plays_no_part(model: nn.Module) -> None:
    pathways = attached(model)
    with pathways.use("fr"):
        before = model(frames(0))
    with torch.no_grad():
        model[0].fc1.bias[~pathways.neurons("fr")["0.fc1.weight"]] = 5.0
    with pathways.use("fr"):
        assert torch.equal(model(frames(0)), before)


@pytest.mark.parametrize("score", ["activation", "sensitivity", "gradient"])
def test_masks_that_adapt_stay_whole_and_differ_by_language(model: nn.Module, score: str) -> None:
    pathways = attached(model, score=score, adapt_every=3, **({"adapt_until": 50} if score == "gradient" else {}))
    first = pathways.mask("fr")
    train(model, pathways, 6)
    assert_whole(pathways)
    assert any(not torch.equal(mask, first[name]) for name, mask in pathways.mask("fr").items())
    assert pathways.overlap()["en", "fr"] < 1
    assert pathways.summary().union_density > 0.5


def test_inputs_of_dropped_neurons_are_observed_as_in_the_dense_model(model: nn.Module) -> None:
    """Behind zeros they would all be act(bias), and no dropped neuron would ever come back."""
    pathways = attached(model, score="activation")
    alone = attached(copy.deepcopy(model), score="activation")
    with pathways.calibrate("fr"), pathways.use("fr"):
        model[0](frames(0))
    with alone.calibrate("fr"):
        alone.model[0](frames(0))
    name = "0.fc2.weight"
    (seen,), (expected,) = ([one.rms("fr")[name] for one in each._state.observations] for each in (pathways, alone))
    assert torch.equal(seen, expected)


def test_frozen_weights_of_dropped_neurons_do_not_move(model: nn.Module) -> None:
    pathways = attached(model, ["en"], gradient="frozen")
    before = {name: model.get_parameter(name).detach().clone() for name in pathways.names}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model.train()
    for step in range(3):
        with pathways.use("en"):
            model(frames(step)).square().mean().backward()
        optimizer.step()
        pathways.step(optimizer)
    for name, mask in pathways.mask("en").items():
        weight = model.get_parameter(name).detach()
        assert torch.equal(weight[~mask], before[name][~mask])
        assert not torch.equal(weight[mask], before[name][mask])


def test_stages_narrow_what_is_kept(model: nn.Module) -> None:
    pathways = attached(model, gradient="frozen", schedule="iterative", prune_every=2, prune_share=0.3)
    train(model, pathways, 6)
    assert pathways.at_target
    assert_whole(pathways)


def test_they_come_back_from_disk(model: nn.Module, tmp_path: Path) -> None:
    pathways = attached(model, score="activation", adapt_every=2)
    train(model, pathways, 3)
    pathways.save(tmp_path / "pathways")
    loaded = Pathways.load(model, tmp_path / "pathways")
    assert loaded.config == pathways.config
    assert loaded.config.pairs == PAIRS
    for language in LANGUAGES:
        for name, mask in pathways.mask(language).items():
            assert torch.equal(mask, loaded.mask(language)[name])
    again = attached(copy.deepcopy(model), score="activation", adapt_every=2)
    again.load_state_dict(pathways.state_dict())
    train(model, pathways, 3)
    train(again.model, again, 3)
    assert all(torch.equal(mask, again.mask("fr")[name]) for name, mask in pathways.mask("fr").items())


def test_files_of_other_granularities_say_nothing_of_pairs(model: nn.Module, tmp_path: Path) -> None:
    Pathways.attach(model, PathwayConfig(sparsity=0.5), ["en"]).save(tmp_path / "pathways")
    assert "pairs" not in (tmp_path / "pathways" / "pathways.json").read_text()


def test_refitting_brings_a_pathway_nearer_to_the_dense_model(model: nn.Module) -> None:
    model.eval()
    pathways, dense = attached(model), copy.deepcopy(model)
    batches = {language: [frames(seed)] for seed, language in enumerate(LANGUAGES)}

    def distance(language: str) -> float:
        with pathways.use(language), torch.no_grad():
            return float((model(frames(9)) - dense(frames(9))).square().mean())

    before = [distance(language) for language in LANGUAGES]
    Refitting(pathways, model, dense, dense, frames(0)).run(batches)
    assert all(distance(language) < 0.6 * one for language, one in zip(LANGUAGES, before, strict=True))


def test_an_added_language_leaves_the_others_as_they_are(model: nn.Module) -> None:
    pathways = attached(model)

    def out(language: str) -> Tensor:
        model.eval()
        with pathways.use(language), torch.no_grad():
            return model(frames(9))

    pathways.add("it", reuse=0.5)
    before, start = [out(language) for language in LANGUAGES], out("it")
    assert_whole(pathways)
    optimizer = torch.optim.AdamW(pathways.parameters("it").values(), lr=0.1)
    for step in range(3):
        model.train()
        with pathways.use("it"):
            model(frames(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        pathways.step(optimizer)
    assert all(torch.equal(out(language), one) for language, one in zip(LANGUAGES, before, strict=True))
    assert not torch.allclose(out("it"), start)


def test_masks_that_split_neurons_are_refused(model: nn.Module, tmp_path: Path) -> None:
    pathways = attached(model)
    mask = pathways.mask("fr")
    mask["1.fc1.weight"][0, 0] = ~mask["1.fc1.weight"][0, 0]
    with pytest.raises(PathwaysError, match=r"does not keep whole neurons of 1\.fc1\.weight and 1\.fc2\.weight"):
        pathways.set_mask("fr", mask)
    single = Pathways.attach(copy.deepcopy(model), PathwayConfig(sparsity=0.5, include=("*.fc?",)), LANGUAGES)
    single.save(tmp_path / "single")
    assert read_folder(tmp_path / "single").description.tensors.keys() == set(pathways.names)
    with pytest.raises(PathwaysError, match="does not keep whole neurons"):
        pathways.masks_from(tmp_path / "single")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": ()}, "granularity neurons needs pairs"),
        ({"pairs": [("fc1", "fc3")]}, "no fc1 of the model has a fc3 beside it"),
        ({"pairs": [("c1", "fc2")]}, "no c1 of the model"),
        ({"pairs": [("fc1", "mix")]}, "20 outputs and 6 inputs"),
        ({"pairs": [("", "0")]}, "are not two linear layers|no  of the model"),
        ({"pairs": [*PAIRS, ("fc2", "mix")]}, "a layer is in two of them"),
        ({"exclude": ("*.fc2",)}, r"only 0\.fc1\.weight is to be pruned: exclude both"),
        ({"exclude": ("*.fc?",)}, "include and exclude leave no pair"),
    ],
)
def test_pairs_that_are_none_are_one_line(model: nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(PathwaysError, match=message):
        attached(model, **options)


def test_an_excluded_layer_stays_dense(model: nn.Module) -> None:
    assert attached(model, exclude=("0",)).names == ("1.fc1.weight", "1.fc2.weight")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "unstructured"}, "pairs are of granularity neurons"),
        ({"allocation": "global"}, "allocation uniform"),
        ({"gradient": "parp"}, "gradient dense or frozen"),
    ],
)
def test_options_that_do_not_go_with_neurons(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathwayConfig.model_validate({"sparsity": 0.5, "granularity": "neurons", "pairs": PAIRS, **options})
