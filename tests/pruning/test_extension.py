"""A language that is added: it trains, and the languages before it stay as they are bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from tests.pruning.conftest import tokens
from tests.pruning.speller import CONFIGS, OPTIMIZERS, MakeOptimizer, Speller, copied, logits, same, teach, trained

PARAMETERS = {
    "embedding.weight": (11, 8),
    "norm.weight": (8,),
    "norm.bias": (8,),
    "recurrent.bias_ih_l0": (24,),
    "recurrent.bias_hh_l0": (24,),
    "recurrent.bias_ih_l0_reverse": (24,),
    "recurrent.bias_hh_l0_reverse": (24,),
    "attention.in_proj_bias": (36,),
    "attention.out_proj.bias": (12,),
    "back.bias": (8,),
    "output.bias": (11,),
}
BUFFERS = {"norm.running_mean": (8,), "norm.running_var": (8,), "norm.num_batches_tracked": (), "scale": (8,)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_the_languages_before_stay_bit_for_bit_and_the_new_one_learns(
    options: dict[str, Any], make: MakeOptimizer
) -> None:
    model, pathways = trained(**options)
    before, masks = logits(model, pathways, ["en", "fr"]), {one: pathways.mask(one) for one in ("en", "fr")}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    pathways.add("it", 0.8)
    assert pathways.languages == ("en", "fr", "it")
    assert pathways.summary().sparsity["it"] == pytest.approx(0.8, abs=0.02)
    first, new = pathways.mask("it"), logits(model, pathways, ["it"])
    model.train()
    teach(model, pathways, "it", make)

    assert same(logits(model, pathways, ["en", "fr"]), before)
    assert same({one: pathways.mask(one) for one in ("en", "fr")}, masks)
    after = model.state_dict()
    for name in after:
        if name not in pathways.names:
            assert torch.equal(after[name], state[name]), name
            continue
        protected = masks["en"][name] | masks["fr"][name]
        moves = ~protected & pathways.mask("it")[name]
        assert torch.equal(after[name][protected], state[name][protected])
        assert (after[name][moves] != state[name][moves]).float().mean() > 0.5
    own = pathways.language_tensors("it")
    for name in ("embedding.weight", "norm.bias", "recurrent.bias_ih_l0", "norm.running_mean", "scale"):
        assert not torch.equal(own[name], state[name])
    assert torch.equal(own["back.bias"], state["back.bias"])  # it is frozen
    assert not torch.equal(logits(model, pathways, ["it"])["it"], new["it"])
    assert not same(pathways.mask("it"), first)
    assert pathways.summary().sparsity["it"] == pytest.approx(0.8, abs=0.02)
    assert pathways.state_dict()["own_steps"]["it"] == 6
    assert pathways.sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("score", ["magnitude", "activation"])
@pytest.mark.parametrize("gradient", ["dense", "frozen"])
def test_gradients_reach_only_what_no_other_pathway_keeps(gradient: str, score: str) -> None:
    model, pathways = trained(gradient=gradient, score=score)
    pathways.add("it")
    assert all(parameter.grad is None for parameter in model.parameters())
    model.train()
    with pathways.use("it"):
        model(tokens(1)).square().mean().backward()
    own = pathways.mask("it")
    for name in pathways.names:
        protected = pathways.mask("en")[name] | pathways.mask("fr")[name]
        moves = ~protected & own[name] if gradient == "frozen" else ~protected
        reached = model.get_parameter(name).grad != 0
        assert not reached[~moves].any() and reached[moves].float().mean() > 0.5
    assert all(p.grad is None for n, p in model.named_parameters() if n not in pathways.names)
    given = copied(pathways, "it")
    assert {name for name, parameter in given.items() if parameter.grad is None} == {"back.bias"}


def test_nothing_is_pruned_once_a_language_was_added() -> None:
    model = Speller()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0, prune_start=3), ["en"])
    generator = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=generator) < 0.3 for n, m in pathways.mask("en").items()}
    pathways.set_mask("en", mask)
    pathways.add("it", 0.8)
    teach(model, pathways, "it")
    assert same(pathways.mask("en"), mask)


def test_language_tensors_are_copies_that_are_in_the_model_while_in_use() -> None:
    model, pathways = trained()
    assert pathways.language_tensors("en") == copied(pathways, "fr") == {}
    pathways.add("it")
    parameters, tensors = copied(pathways, "it"), pathways.language_tensors("it")
    assert {name: tuple(p.shape) for name, p in parameters.items()} == PARAMETERS
    assert {n: tuple(t.shape) for n, t in tensors.items()} == PARAMETERS | BUFFERS | {"fleeting": (8,)}
    assert not parameters["back.bias"].requires_grad and parameters["output.bias"].requires_grad
    assert list(pathways.parameters("it")) == [*pathways.names, *PARAMETERS]
    keys, base = list(model.state_dict()), dict(model.named_parameters())
    with pathways.use("it"):
        assert list(model.state_dict()) == keys
        assert model.output.weight is model.embedding.weight is parameters["embedding.weight"]
        assert any(p is parameters["recurrent.bias_ih_l0"] for p in model.recurrent._flat_weights)
    assert dict(model.named_parameters()).keys() == base.keys()
    assert all(base[name] is parameter for name, parameter in model.named_parameters())
    with pytest.raises(KeyboardInterrupt), pathways.use("it"):
        raise KeyboardInterrupt
    assert all(base[name] is parameter for name, parameter in model.named_parameters())
    assert pathways.summary().mask_bytes <= 3 * (pathways.summary().weights / 8 + len(pathways.names))


def test_languages_added_one_after_the_other() -> None:
    model, pathways = trained(adapt_every=2)
    before = logits(model, pathways, ["en", "fr"])
    pathways.add("it")
    teach(model, pathways, "it")
    before |= logits(model, pathways, ["it"])
    pathways.add("de", 0.9)
    teach(model, pathways, "de")
    assert same(logits(model, pathways, before), before)
    mask = {one: pathways.mask(one) for one in pathways.languages}
    assert list(pathways.overlap()) == [(a, b) for i, a in enumerate(mask) for b in list(mask)[i + 1 :]]
    assert pathways.summary().sparsity["de"] == pytest.approx(0.9, abs=0.01)
    assert not torch.equal(*(pathways.language_tensors(one)["norm.bias"] for one in ("it", "de")))
    rows = ["de", "en", "it", "fr", "it"]
    x = tokens(3).repeat(3, 1)[:5]
    with torch.no_grad(), pathways.use(rows) as run:
        together = run(model, x)
    for row, language in enumerate(rows):
        with torch.no_grad(), pathways.use(language):
            torch.testing.assert_close(together[row], model(x[row : row + 1])[0])


def test_only_the_last_one_trains_and_changes() -> None:
    model, pathways = trained()
    pathways.add("it")
    pathways.add("de", 0.95)
    model.train()
    blocked: list[Callable[[], Any]] = [
        lambda: pathways.use("en").__enter__(),
        lambda: pathways.use("it").__enter__(),
        lambda: pathways.use(["de", "fr"]).__enter__(),
        lambda: pathways.adapt("fr"),
        lambda: pathways.set_mask("en", pathways.mask("fr")),
        lambda: pathways.set_language_tensors("it", {"norm.bias": torch.zeros(8)}),
        lambda: pathways.parameters("en"),
    ]
    for call in blocked:
        with pytest.raises(PathwaysError, match="stays as it is since 'de' was added after it: only 'de' trains"):
            call()
    kept = pathways.mask("en")
    assert pathways.masks_from(pathways) == ["de"]
    with pytest.raises(PathwaysError, match="none of de"):
        pathways.masks_from(trained()[1])
    assert same(pathways.mask("en"), kept)
    pathways.set_mask("de", pathways.mask("fr"))
    assert same(pathways.mask("de"), pathways.mask("fr"))
    with pathways.use(["de", "de"]) as run:
        run(model, tokens(1)).sum().backward()
    assert copied(pathways, "de")["norm.bias"].grad is not None


def test_mixed_rows_train_an_added_language_as_a_block_of_one_language_does() -> None:
    found = []
    for mixed in (True, False):
        model, pathways = trained(gradient="frozen")
        pathways.add("it")
        with pathways.use(["it", "it"] if mixed else "it") as run:
            (run(model, tokens(1)) if mixed else model(tokens(1))).square().mean().backward()
        found.append({name: parameter.grad for name, parameter in pathways.parameters("it").items()})
        assert torch.equal(pathways.language_tensors("it")["norm.num_batches_tracked"], torch.tensor(10))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("score", ["magnitude", "activation"])
def test_the_less_it_reuses_the_more_of_its_weights_train(score: str) -> None:
    shares = []
    for reuse in (1.0, 0.5, 0.0):
        torch.manual_seed(0)
        model = Speller()
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.7, score=score), ["en"])
        pathways.add("it", reuse=reuse)
        for _ in range(2):
            both, own = (
                sum(
                    int((pathways.mask("en")[n] & m).sum() if both else m.sum()) for n, m in pathways.mask("it").items()
                )
                for both in (True, False)
            )
            shares.append(1 - both / own)
            if score == "activation":
                with pathways.use("it"), pathways.calibrate("it"), torch.no_grad():
                    model(tokens(1, 8, 11))
            pathways.adapt("it")
        if reuse == 0.5:
            resumed = Pathways.attach(Speller(), PathwayConfig(sparsity=0.7, score=score), ["en"])
            resumed.add("it")
            resumed.load_state_dict(pathways.state_dict())
            assert resumed.state_dict()["added"] == {"it": {"sparsity": 0.7, "reuse": 0.5}}
    assert shares[0] == 0  # a trap: nothing of it would train
    assert shares[0] <= shares[1] < shares[2] <= shares[4] and shares[4] == shares[5] == 1


def test_an_added_language_may_be_calibrated() -> None:
    model, pathways = trained(score="activation")
    pathways.add("it")
    with pytest.raises(PathwaysError, match="no activation of 'it'"):
        pathways.adapt("it")
    with pathways.use("it"), pathways.calibrate("it"), torch.no_grad():
        model(tokens(1, 8, 11))
    event = pathways.adapt("it")
    assert (event.score, event.language) == ("activation", "it") and event.changed > 0


def test_language_tensors_of_another_size() -> None:
    model, pathways = trained()
    before = logits(model, pathways, ["en"])
    pathways.add("it")
    weight, bias = torch.randn(15, 8), torch.randn(15)
    pathways.set_language_tensors("it", {"output.weight": weight, "output.bias": bias})  # by its second name
    model.eval()
    with torch.no_grad(), pathways.use("it"):
        assert model(torch.tensor([[14, 3]])).shape == (1, 2, 15)
    assert same(logits(model, pathways, ["en"]), before)
    extracted = pathways.extract("it")
    assert torch.equal(extracted["embedding.weight"], weight) and torch.equal(extracted["output.weight"], weight)
    assert copied(pathways, "it")["embedding.weight"].data_ptr() != weight.data_ptr()
    for wrong, message in (
        ({"norm.bias": torch.zeros(2, 2)}, "norm.bias has 1 dimensions, not 2"),
        ({"back.weight": torch.zeros(8, 12)}, "back.weight is no tensor of 'it'"),
        ({"bogus": torch.zeros(1)}, "bogus is no tensor"),
    ):
        with pytest.raises(PathwaysError, match=message):
            pathways.set_language_tensors("it", wrong)
    model.train()
    teach(model, pathways, "it")
    assert copied(pathways, "it")["embedding.weight"].shape == (15, 8)
    assert same(logits(model, pathways, ["en"]), before)


def test_extracting_gives_a_model_that_needs_no_pathways() -> None:
    model, pathways = trained()
    pathways.add("it")
    teach(model, pathways, "it")
    for language in pathways.languages:
        alone = Speller()
        alone.load_state_dict(pathways.extract(language))
        alone.fleeting = pathways.language_tensors("it")["fleeting"] if language == "it" else model.fleeting
        with torch.no_grad():
            assert torch.equal(alone.eval()(tokens(77)), logits(model, pathways, [language])[language])


def test_a_model_that_changes_type_takes_language_tensors_with_it() -> None:
    model, pathways = trained()
    pathways.add("it")
    parameter = copied(pathways, "it")["norm.bias"]
    model.double()
    found = logits(model, pathways, ["en", "it"])
    assert found["it"].dtype == torch.float64
    assert parameter.dtype == torch.float64 and copied(pathways, "it")["norm.bias"] is parameter


def refusal(pathways: Pathways, *args: Any) -> str:
    with pytest.raises(PathwaysError) as caught:
        pathways.add(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_language_that_cannot_be_added_is_refused_with_the_reason() -> None:
    model, pathways = trained()
    weights = pathways.summary().weights
    free = round(weights * (1 - pathways.summary().union_density))
    keeps = weights - round(0.02 * weights)
    least = math.ceil(100 * (1 - free / weights)) / 100
    assert refusal(pathways, "it", 0.02) == (
        f"add: 'it' needs 98.0% of the weights ({keeps:,}) and only {free / weights:.1%} ({free:,}) are kept by no "
        f"pathway yet: raise its sparsity to {least:.2f} or more, or prune the others more"
    )
    assert pathways.languages == ("en", "fr") and list(pathways.state_dict()["statistics"]) == ["en", "fr"]
    assert "raise its sparsity" in refusal(pathways, "it", least - 0.02)
    trained()[1].add("it", least)
    assert "is there already" in refusal(pathways, "fr")
    assert "not a language code" in refusal(pathways, "i/t")
    assert "sparsity: Input should be less than 1" in refusal(pathways, "it", 1.0)
    with pathways.use("en"):
        assert "leave that block first" in refusal(pathways, "it")

    def of(languages: list[str] | None = None, **options: Any) -> Pathways:
        return Pathways.attach(model, PathwayConfig(**{"sparsity": 0.7, **options}), languages or ["en"])

    assert "all languages share one mask" in refusal(of(["en", "fr"], shared=True), "it")
    assert "gradient parp trains all weights" in refusal(of(gradient="parp"), "it")
    assert "pruning has reached 20.0% of 70.0%" in refusal(of(schedule="iterative", prune_every=5), "it")
    assert "fixes sparsity to 0.75" in refusal(of(sparsity=0.75, granularity="1:4"), "it", 0.9)


def test_a_step_that_is_not_finished_comes_first() -> None:
    model, pathways = trained(gradient="frozen")
    SGD(model.parameters(), lr=0.1).step()
    assert "call pathways.step() after every optimizer.step()" in refusal(pathways, "it")
    pathways.step()
    pathways.add("it")
