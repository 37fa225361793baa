"""What happens to weights, gradients and optimizer state over training steps, policy by policy."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import MaskEvent
from tests.pruning.conftest import Recogniser, tokens

OPTIMIZERS = {
    "adamw": lambda parameters: AdamW(parameters, lr=1e-2, weight_decay=0.5),
    "sgd": lambda parameters: SGD(parameters, lr=1e-1, momentum=0.9, weight_decay=0.1),
}
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def weights(model: nn.Module, pathways: Pathways) -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().clone() for name in pathways.names}


def differ(pathways: Pathways, seed: int = 3) -> None:
    """Gives every language a mask of its own."""
    for number, language in enumerate(pathways.languages):
        generator = torch.Generator().manual_seed(seed + number)
        mask = {n: torch.rand(m.shape, generator=generator) < 0.4 for n, m in pathways.mask(language).items()}
        pathways.set_mask(language, mask)


def train(
    model: nn.Module, pathways: Pathways, optimizer: Optimizer, languages: Iterable[str], seed: int = 0
) -> list[MaskEvent]:
    """One step for each of ``languages``; languages joined by + are accumulated in one step."""
    events = []
    for number, group in enumerate(languages):
        optimizer.zero_grad()
        for language in group.split("+"):
            with pathways.use(language):
                model(tokens(seed + number)).square().mean().backward()
        optimizer.step()
        events += pathways.step(optimizer)
    return events


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_frozen_weights_move_for_nothing(recogniser: Recogniser, make: MakeOptimizer) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, gradient="frozen"), ["en", "fr"])
    differ(pathways)
    english, french = pathways.mask("en"), pathways.mask("fr")
    optimizer = make(recogniser.parameters())
    train(recogniser, pathways, optimizer, ["en", "fr", "en+fr"])  # so that both have momentum
    for group in ("en", "fr", "fr+en"):
        before = weights(recogniser, pathways)
        train(recogniser, pathways, optimizer, [group], seed=9)
        for name, after in weights(recogniser, pathways).items():
            used = torch.zeros_like(english[name])
            for language in group.split("+"):
                used |= {"en": english, "fr": french}[language][name]
            assert torch.equal(after[~used], before[name][~used])
            assert (after[used] != before[name][used]).float().mean() > 0.9


def test_accumulated_gradients_are_masked_each_by_its_own_pathway(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, gradient="frozen"), ["en", "fr"])
    differ(pathways)
    alone = {}
    for number, language in enumerate(pathways.languages):
        twin = Recogniser()
        twin.load_state_dict(pathways.extract(language))
        twin(tokens(number)).square().mean().backward()
        alone[language] = {name: twin.get_parameter(name).grad for name in pathways.names}
    for number, language in enumerate(pathways.languages):
        with pathways.use(language):
            recogniser(tokens(number)).square().mean().backward()
    for name in pathways.names:
        expected = sum(alone[language][name] * pathways.mask(language)[name] for language in pathways.languages)
        torch.testing.assert_close(recogniser.get_parameter(name).grad, expected)


def test_dense_gradients_are_those_of_the_masked_point_and_reach_every_weight(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, gradient="dense"), ["en"])
    twin = Recogniser()
    twin.load_state_dict(pathways.extract("en"))
    twin(tokens(0)).square().mean().backward()
    with pathways.use("en"):
        recogniser(tokens(0)).square().mean().backward()
    for name in pathways.names:
        assert torch.equal(recogniser.get_parameter(name).grad, twin.get_parameter(name).grad)
    before = weights(recogniser, pathways)
    SGD(recogniser.parameters(), lr=0.1).step()
    pathways.step()
    dropped = ~pathways.mask("en")["output.weight"]
    assert (weights(recogniser, pathways)["output.weight"] != before["output.weight"])[dropped].all()


def test_a_forgotten_step_is_noticed_before_frozen_weights_are_lost(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, gradient="frozen"), ["en"])
    optimizer = SGD(recogniser.parameters(), lr=0.1, weight_decay=0.1)
    with pathways.use("en"):
        recogniser(tokens(0)).sum().backward()
    with pathways.use("en"):  # accumulating is fine
        recogniser(tokens(0)).sum().backward()
    optimizer.step()
    with pytest.raises(PathwaysError, match=r"call pathways\.step\(\) after every optimizer\.step\(\)"):
        train(recogniser, pathways, optimizer, ["en"])


def test_weights_that_do_not_train_may_start_to(recogniser: Recogniser) -> None:
    recogniser.requires_grad_(False)
    recogniser.output.requires_grad_(True)
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, gradient="frozen"), ["en"])
    with pathways.use("en"):
        recogniser(tokens(0)).sum().backward()
    assert recogniser.convolution.weight.grad is None
    assert not recogniser.convolution.weight.requires_grad
    recogniser.requires_grad_(True)
    with pathways.use("en"):
        recogniser(tokens(0)).sum().backward()
    gradient = recogniser.convolution.weight.grad
    assert torch.equal(gradient != 0, pathways.mask("en")["convolution.weight"])


def test_frozen_masks_only_ever_narrow_while_dense_ones_may_revive(recogniser: Recogniser) -> None:
    schedule = {"sparsity": 0.6, "schedule": "linear", "prune_every": 2, "prune_stages": 6}
    revived = {}
    for policy in ("frozen", "dense"):
        model = Recogniser()
        pathways = Pathways.attach(model, PathwayConfig(gradient=policy, **schedule), ["en"])
        optimizer = AdamW(model.parameters(), lr=0.05)
        before, revived[policy] = pathways.mask("en"), 0
        for seed in range(12):
            train(model, pathways, optimizer, ["en"], seed)
            now = pathways.mask("en")
            revived[policy] += sum(int((now[name] & ~before[name]).sum()) for name in now)
            before = now
        assert pathways.at_target
    assert revived["frozen"] == 0
    assert revived["dense"] > 0


def test_parp_writes_zeros_and_then_trains_densely(recogniser: Recogniser) -> None:
    config = PathwayConfig(sparsity=0.5, gradient="parp", adapt_every=2)
    pathways = Pathways.attach(recogniser, config, ["en"])
    first = pathways.mask("en")
    assert all(torch.equal(value != 0, first[name]) for name, value in weights(recogniser, pathways).items())
    optimizer = AdamW(recogniser.parameters(), lr=0.05)
    assert train(recogniser, pathways, optimizer, ["en"]) == []
    dense = weights(recogniser, pathways)
    assert all((value[~first[name]] != 0).any() for name, value in dense.items())
    with pathways.use("en"):  # nothing is masked in training
        assert all(torch.equal(value, dense[name]) for name, value in weights(recogniser, pathways).items())
    recogniser.eval()
    with pathways.use("en"):  # but it is always sparse when evaluated
        assert all(torch.equal(v != 0, first[n]) for n, v in weights(recogniser, pathways).items())
    recogniser.train()
    (event,) = train(recogniser, pathways, optimizer, ["en"])
    assert event.kind == "adapt" and event.changed > 0
    now = pathways.mask("en")
    assert all(torch.equal(value != 0, now[name]) for name, value in weights(recogniser, pathways).items())


def test_parp_chooses_its_first_masks_by_the_score_among_all_weights() -> None:
    """Those of magnitude, by which zeros are written at once, do not decide which weights there are to choose from."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(64, 16) * torch.logspace(-2, 2, 16)
    parp, frozen = (
        Pathways.attach(model, PathwayConfig(sparsity=0.5, score="activation", gradient=gradient, shared=True), ["en"])
        for model, gradient in zip(models, ("parp", "frozen"), strict=True)
    )
    first, theta = parp.mask("en"), weights(models[1], frozen)
    for model, pathways in zip(models, (parp, frozen), strict=True):
        with pathways.calibrate("en"):
            model(x)
    assert all(torch.equal(value != 0, first[name]) for name, value in weights(models[0], parp).items())
    for pathways in (parp, frozen):
        pathways.adapt("en")
    chosen = parp.mask("en")
    assert all(torch.equal(mask, frozen.mask("en")[name]) for name, mask in chosen.items())
    assert not torch.equal(chosen["0.weight"], first["0.weight"])
    assert all(torch.equal(value, theta[name] * chosen[name]) for name, value in weights(models[0], parp).items())
    again = Pathways.attach(models[1], parp.config, ["en"])
    again.load_state_dict(parp.state_dict())
    assert all(torch.equal(value, theta[name] * chosen[name]) for name, value in weights(models[1], again).items())


def test_parp_from_other_masks_has_all_weights_that_they_keep() -> None:
    torch.manual_seed(0)
    model, other = (nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2))
    theta = [model[index].weight.clone() for index in range(2)]
    source = Pathways.attach(other, PathwayConfig(sparsity=0.5, shared=True), ["en"])
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, gradient="parp", shared=True), ["en"])
    model.eval()
    with pathways.use("en"):
        model(torch.randn(2, 8))
    pathways.masks_from(source)
    for index, mask in enumerate(source.mask("en").values()):
        assert torch.equal(model[index].weight, theta[index] * mask)


def test_parp_does_not_undo_training_to_calibrate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="activation", gradient="parp"), ["en"])
    with torch.no_grad():
        model[0].weight.add_(1)
    moved = model[0].weight.clone()
    with pathways.calibrate("en"):
        model(torch.randn(4, 8))
    pathways.adapt("en")
    assert torch.equal(model[0].weight, moved * pathways.mask("en")["0.weight"])


def test_lottery_tickets_rewind_weights_buffers_and_optimizer(recogniser: Recogniser) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    config = PathwayConfig(
        sparsity=0.36, schedule="iterative", prune_start=2, prune_every=2, gradient="frozen", rewind=True
    )
    pathways = Pathways.attach(model, config, ["en"])
    optimizer = AdamW(model.parameters(), lr=0.1)
    reached = []
    for step in range(1, 7):
        optimizer.zero_grad()
        with pathways.use("en"):
            model(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        trained = {name: value.clone() for name, value in model.state_dict().items()}
        previous = pathways.mask("en")
        events = pathways.step(optimizer)
        reached += [round(event.sparsity, 2) for event in events]
        rewound = all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
        assert rewound == (step in (2, 4)) == bool(events and events[0].rewound) == (not optimizer.state)
        if events:  # chosen by the weights as trained, not as rewound
            for name, mask in pathways.mask("en").items():
                magnitudes = trained[name].abs().masked_fill(~previous[name], -1)
                assert magnitudes[mask].min() >= magnitudes[~mask].max()
    assert reached == pytest.approx([0.2, 0.36], abs=0.03)
    with pytest.raises(PathwaysError, match="pass the optimizer"):
        pathways.step()


def test_each_language_adapts_by_its_own_steps(recogniser: Recogniser) -> None:
    config = PathwayConfig(sparsity=0.5, adapt_every=2, adapt_until=4)
    pathways = Pathways.attach(recogniser, config, ["en", "fr"])
    optimizer = SGD(recogniser.parameters(), lr=0.1)
    events = train(recogniser, pathways, optimizer, ["en", "en", "fr", "en", "en+fr", "en", "en"])
    assert [(event.step, event.language) for event in events] == [(2, "en"), (5, "en"), (5, "fr")]
    assert {event.kind for event in events} == {"adapt"}


def test_evaluating_advances_no_clock(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, adapt_every=1), ["en", "fr"])
    recogniser.eval()
    with pathways.use("en"):
        recogniser(tokens(0))
    with pytest.raises(PathwaysError, match=r"no pathway was used in training mode: call model\.train\(\)"):
        pathways.step()
    assert pathways.steps == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_a_block_that_ends_with_an_error_trained_nothing(recogniser: Recogniser, mixed: bool) -> None:
    """Such as one that is out of memory, after which a loop goes on with the next batch."""
    config = PathwayConfig(sparsity=0.5, score="sensitivity", gradient="frozen")
    pathways = Pathways.attach(recogniser, config, ["en", "fr"])
    optimizer = SGD(recogniser.parameters(), lr=0.1)

    def train_en() -> None:
        with pathways.use("en"):
            recogniser(tokens(0)).square().sum().backward()

    def fail_in_fr() -> None:
        with pytest.raises(MemoryError):
            if mixed:
                with pathways.use(["en", "fr"]) as rows:
                    rows(recogniser, tokens(1)).square().sum().backward()
                    raise MemoryError
            with pathways.use("fr"):
                recogniser(tokens(1)).square().sum().backward()
                raise MemoryError

    def clocks() -> dict[str, int]:
        state = pathways.state_dict()
        return {language: state["own_steps"][language] for language in pathways.languages}

    fail_in_fr()
    optimizer.zero_grad()
    with pytest.raises(PathwaysError, match="no pathway was used in training mode"):
        pathways.step()
    train_en()
    fail_in_fr()
    optimizer.step()
    pathways.step()
    assert clocks() == {"en": 1, "fr": 0}
    assert pathways.state_dict()["statistics"]["fr"] == {}


def test_a_shared_mask_adapts_by_the_steps_of_all(recogniser: Recogniser) -> None:
    config = PathwayConfig(sparsity=0.5, adapt_every=2, shared=True)
    pathways = Pathways.attach(recogniser, config, ["en", "fr"])
    events = train(recogniser, pathways, SGD(recogniser.parameters(), lr=0.1), ["en", "fr", "en+fr", "fr"])
    assert [(event.step, event.language) for event in events] == [(2, None), (4, None)]


def test_all_languages_prune_together(recogniser: Recogniser) -> None:
    config = PathwayConfig(sparsity=0.5, schedule="linear", prune_every=2, prune_stages=2, adapt_every=1)
    pathways = Pathways.attach(recogniser, config, ["en", "fr"])
    events = train(recogniser, pathways, SGD(recogniser.parameters(), lr=0.1), ["en", "en", "en", "en"])
    assert [(event.step, event.kind, event.language) for event in events] == [
        (1, "adapt", "en"),
        (2, "prune", "en"),
        (2, "prune", "fr"),
        (3, "adapt", "en"),
        (4, "adapt", "en"),
    ]
    assert pathways.sparsity == 0.5


def test_magnitude_over_one_theta_collapses_and_activation_does_not(recogniser: Recogniser) -> None:
    """The trap of one shared theta, and its cure."""
    overlap = {}
    for score in ("magnitude", "activation"):
        model = Recogniser()
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score=score), ["en", "fr"])
        for language, (low, high) in {"en": (0, 3), "fr": (8, 11)}.items():
            with pathways.use(language):
                model(tokens(0, low, high))
        for language in pathways.languages:
            event = pathways.adapt(language)
            assert event.score == score
        assert event.mean_iou == pathways.summary().mean_iou
        assert event.union_density == pathways.summary().union_density
        overlap[score] = pathways.overlap()["en", "fr"]
    assert overlap["magnitude"] == 1.0
    assert overlap["activation"] < 0.95


def test_activation_masks_keep_the_largest_products(recogniser: Recogniser) -> None:
    model = nn.Sequential(nn.Linear(8, 6, bias=False))
    pathways = Pathways.attach(model.eval(), PathwayConfig(sparsity=0.5, score="activation"), ["en"])
    with pytest.raises(PathwaysError, match=r"no activation of 'en' was observed yet.*calibrate"):
        pathways.adapt("en")
    x = torch.randn(40, 8) * torch.arange(8)
    with pathways.calibrate("en"), torch.no_grad():
        model(x)
    pathways.adapt("en")
    scores = model[0].weight.abs() * x.square().mean(0).sqrt()
    mask = pathways.mask("en")["0.weight"]
    assert int(mask.sum()) == 24
    assert scores[mask].min() >= scores[~mask].max()


def test_calibrating_inside_a_block_sees_the_sub_network() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).eval()
    config = PathwayConfig(sparsity=0.5, score="activation", include=("1",))
    pathways = Pathways.attach(model, PathwayConfig(**config.model_dump()), ["en"])
    with pathways.use("en"), pathways.calibrate("en"):
        model(torch.randn(3, 4))
    assert pathways.adapt("en").score == "activation"
    with (
        pytest.raises(PathwaysError, match="needs no calibration"),
        Pathways.attach(model, PathwayConfig(sparsity=0.5), ["en"]).calibrate("en"),
    ):
        pass


def test_blocks_inside_a_calibration_do_not_end_it() -> None:
    seen = []
    for inside in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False)).eval()
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="activation"), ["en"])
        with pathways.calibrate("en"):
            for _ in range(3):
                with pathways.use("en") if inside else nullcontext():
                    model(torch.randn(5, 4))
        seen.append(pathways.state_dict()["statistics"]["en"]["0.weight"])
    assert torch.equal(*seen) and seen[0][0, -1] == 15


def test_gradient_scores_swap_the_smallest_for_the_steepest(recogniser: Recogniser) -> None:
    config = PathwayConfig(sparsity=0.5, score="gradient", gradient="frozen", adapt_every=2, adapt_until=100, swap=0.4)
    pathways = Pathways.attach(recogniser, config, ["en"])
    with pytest.raises(PathwaysError, match=r"no gradient of 'en' was observed yet.*calibrate"):
        pathways.adapt("en")
    optimizer = SGD(recogniser.parameters(), lr=0.0)
    assert train(recogniser, pathways, optimizer, ["en"]) == []
    before, values = pathways.mask("en"), weights(recogniser, pathways)
    twin = Recogniser()
    twin.load_state_dict(pathways.extract("en"))
    twin(tokens(5)).square().mean().backward()
    (event,) = train(recogniser, pathways, optimizer, ["en"], seed=5)
    assert event.score == "gradient"
    share = 0.4 * (1 + math.cos(math.pi * 2 / 100)) / 2  # the second of a hundred steps
    for name, mask in pathways.mask("en").items():
        assert mask.sum() == before[name].sum()
        lost, grown = before[name] & ~mask, mask & ~before[name]
        assert int(lost.sum()) == round(share * int(before[name].sum()))
        magnitude, slope = values[name].abs(), twin.get_parameter(name).grad.abs()
        assert magnitude[lost].max() <= magnitude[before[name] & mask].min()
        assert slope[grown].min() >= slope[~before[name] & ~mask].max()


def test_gradients_may_be_taken_by_hand(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, score="gradient"), ["en"])
    for _ in range(2):
        with pathways.calibrate("en"):
            recogniser(tokens(0)).sum().backward()
    before = pathways.mask("en")["output.weight"]
    assert pathways.adapt("en").changed == pytest.approx(0.3, abs=0.02)
    assert pathways.mask("en")["output.weight"].sum() == before.sum()


def test_state_of_revived_weights_is_kept_or_reset(recogniser: Recogniser) -> None:
    for revived in ("keep", "reset"):
        model = nn.Sequential(nn.Linear(6, 6))
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, revived=revived, adapt_every=2), ["en", "fr"])
        optimizer = AdamW(model.parameters(), lr=0.1)

        def step(language: str) -> list[MaskEvent]:
            with pathways.use(language):  # noqa: B023
                model(torch.randn(4, 6)).square().sum().backward()  # noqa: B023
            optimizer.step()  # noqa: B023
            return pathways.step(optimizer)  # noqa: B023

        step("en")
        before = pathways.mask("en")["0.weight"] | pathways.mask("fr")["0.weight"]
        with torch.no_grad():  # turns the order of magnitudes around
            model[0].weight.copy_(1 / model[0].weight)
        step("en")
        back = pathways.mask("en")["0.weight"] & ~before
        assert back.any()
        for moment in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[model[0].weight][moment]
            assert (state[~back] != 0).all()
            assert (state[back] != 0).all() == (revived == "keep")
        if revived == "reset":
            with pytest.raises(PathwaysError, match="pass the optimizer"):
                pathways.step()
            with pytest.raises(PathwaysError, match="pass the optimizer"):
                pathways.adapt("en")


def test_weights_that_are_not_numbers_are_an_error_and_change_no_mask(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5), ["en"])
    before = pathways.mask("en")
    with torch.no_grad():
        recogniser.output.weight[0, 0] = float("nan")
    with pytest.raises(PathwaysError, match="NaN"):
        pathways.adapt("en")
    assert all(torch.equal(mask, before[name]) for name, mask in pathways.mask("en").items())


@pytest.mark.parametrize("how", ["frozen", "dropped"])
def test_a_layer_without_gradients_keeps_its_mask(how: str) -> None:
    """As of a frozen layer, and of one that dropout of layers leaves out; other layers swap, and one line says so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    config = PathwayConfig(sparsity=0.5, score="gradient", adapt_every=1, adapt_until=9)
    pathways = Pathways.attach(model, config, ["en"])
    model[1].weight.requires_grad_(how == "dropped")
    before = pathways.mask("en")
    with pytest.warns(UserWarning, match=r"no gradient of 'en' reached 1\.weight: these masks stay") as warned:
        for _ in range(2):
            with pathways.use("en"):
                hidden = model[0](torch.randn(4, 8))
                model[2](hidden if how == "dropped" else model[1](hidden)).square().mean().backward()
            pathways.step()
    after = pathways.mask("en")
    changed = [not torch.equal(before[name], after[name]) for name in pathways.names]
    assert changed == [True, False, True] and len(warned) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "frozen"},
        {"score": "activation"},
        {"score": "fisher", "include": ("output",)},
        {"score": "sensitivity"},
    ],
)
@pytest.mark.parametrize("copies", [copy.deepcopy, lambda pathways: pickle.loads(pickle.dumps(pathways))])
def test_copied_pathways_train_their_model_as_the_others_do_theirs(
    recogniser: Recogniser, options: dict[str, Any], copies: Callable[[Pathways], Pathways]
) -> None:
    """The copy puts its own hooks on its model."""
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, adapt_every=2, **options), ["en", "fr"])
    train(recogniser, pathways, OPTIMIZERS["adamw"](recogniser.parameters()), ["en", "fr"])
    copied = copies(pathways)
    for one in (pathways, copied):
        train(one.model, one, OPTIMIZERS["adamw"](one.model.parameters()), ["en", "fr"] * 6, seed=5)
    theirs = copied.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in recogniser.state_dict().items())
    assert all(torch.equal(mask, copied.mask("fr")[name]) for name, mask in pathways.mask("fr").items())
    assert not any(value is theirs[name] for name, value in recogniser.state_dict().items())
