from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from tests.pruning.conftest import Recogniser, tokens


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def random_masks(pathways: Pathways, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(mask.shape, generator=generator) < 0.4 for n, mask in pathways.mask("fr").items()}


@pytest.fixture
def pathways(recogniser: Recogniser) -> Pathways:
    """Two pathways that differ, so that a mix-up shows."""
    attached = Pathways.attach(recogniser, PathwayConfig(sparsity=0.6), ["en", "fr"])
    attached.set_mask("fr", random_masks(attached, 1))
    return attached


def test_a_block_sees_the_sub_network_and_leaves_the_dense_weights_bit_for_bit(
    recogniser: Recogniser, pathways: Pathways
) -> None:
    before = snapshot(recogniser)
    for language in ("fr", "en", "fr"):
        with pathways.use(language):
            inside = snapshot(recogniser)
        assert equal(snapshot(recogniser), before)
        assert equal(inside, pathways.extract(language))
        for name, mask in pathways.mask(language).items():
            assert torch.equal(inside[name] != 0, mask)
    assert not equal(pathways.extract("en"), pathways.extract("fr"))


@pytest.mark.parametrize("training", [True, False])
def test_the_forward_pass_in_use_is_that_of_the_extracted_model(
    recogniser: Recogniser, pathways: Pathways, training: bool
) -> None:
    alone = Recogniser()
    alone.load_state_dict(pathways.extract("fr"))
    with pathways.use("fr"):
        inside = recogniser.train(training)(tokens(0))
    assert torch.equal(inside, alone.train(training)(tokens(0)))
    assert not torch.allclose(inside, recogniser(tokens(0)))


def test_dense_weights_come_back_after_an_error(recogniser: Recogniser, pathways: Pathways) -> None:
    before = snapshot(recogniser)
    with pytest.raises(KeyboardInterrupt), pathways.use("fr"):
        raise KeyboardInterrupt
    assert equal(snapshot(recogniser), before)
    with pathways.use("en"):
        pass


def test_what_changes_masked_weights_is_an_error_since_it_would_be_lost(
    recogniser: Recogniser, pathways: Pathways
) -> None:
    optimizer = torch.optim.SGD(recogniser.parameters(), 0.1)
    others, before = {name: 0 * value for name, value in recogniser.state_dict().items()}, snapshot(recogniser)
    lost = r"changed inside use\('fr'\), where they are masked, and the change is lost: call optimizer.step\(\)"
    with pytest.raises(PathwaysError, match=lost), pathways.use("fr"):
        recogniser(tokens(0)).sum().backward()
        optimizer.step()
    recogniser.load_state_dict(before)
    pathways.drop_step()
    recogniser.eval()
    with pytest.raises(PathwaysError, match=lost), pathways.use("fr"):
        recogniser.load_state_dict(others)
    with pytest.raises(KeyboardInterrupt), pathways.use("fr"):  # which comes first
        recogniser.load_state_dict(others)
        raise KeyboardInterrupt


def test_a_backward_pass_outside_the_block_fails_instead_of_using_other_weights(
    recogniser: Recogniser, pathways: Pathways
) -> None:
    with pathways.use("fr"):
        loss = recogniser(tokens(0)).square().mean()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_names_of_parameters_and_of_state_stay_the_models_own(recogniser: Recogniser) -> None:
    keys, parameters = list(recogniser.state_dict()), dict(recogniser.named_parameters())
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, score="activation", gradient="frozen"), ["en"])
    with pathways.use("en"):
        recogniser(tokens(0)).sum().backward()
        assert list(recogniser.state_dict()) == keys
    assert list(recogniser.state_dict()) == keys
    assert all(parameters[name] is parameter for name, parameter in recogniser.named_parameters())


def test_pathways_do_not_nest_and_nothing_changes_inside_a_block(pathways: Pathways) -> None:
    with pathways.use("fr"):
        with pytest.raises(PathwaysError, match=r"use\('en'\) inside use\('fr'\)"), pathways.use("en"):
            pass
        for forbidden in (pathways.step, pathways.detach, lambda: pathways.adapt("fr"), lambda: pathways.extract("fr")):
            with pytest.raises(PathwaysError, match="leave that block first"):
                forbidden()


def test_an_unknown_language_is_named_beside_those_that_are_known(pathways: Pathways) -> None:
    for call in (pathways.mask, pathways.adapt, pathways.extract, lambda language: pathways.use(language).__enter__()):
        with pytest.raises(PathwaysError, match="unknown language 'xx': the pathways are en, fr"):
            call("xx")


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.95])
def test_one_shot_masks_are_those_of_torch_prune(recogniser: Recogniser, sparsity: float) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=sparsity), ["en"])
    for name, mask in pathways.mask("en").items():
        holder = nn.ParameterDict({"weight": nn.Parameter(recogniser.get_parameter(name).detach().clone())})
        prune.l1_unstructured(holder, "weight", amount=sparsity)
        assert torch.equal(mask, holder.weight_mask.bool())


def test_global_one_shot_masks_are_those_of_torch_prune(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.7, allocation="global"), ["en"])
    holders = {
        name: nn.ParameterDict({"weight": nn.Parameter(recogniser.get_parameter(name).detach().clone())})
        for name in pathways.names
    }
    prune.global_unstructured(
        [(holder, "weight") for holder in holders.values()], pruning_method=prune.L1Unstructured, amount=0.7
    )
    assert all(torch.equal(pathways.mask("en")[name], holder.weight_mask.bool()) for name, holder in holders.items())


def test_a_tied_weight_is_masked_once_and_extracted_under_every_name() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second)
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5), ["en"])
    assert pathways.names == ("0.weight",)
    assert pathways.summary().weights == 36
    x = torch.randn(3, 6)
    with pathways.use("en"):
        inside = model(x)
    alone = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    alone.load_state_dict(pathways.extract("en"))
    assert torch.equal(inside, alone(x))


def test_masks_take_one_bit_a_weight_and_overlaps_are_counted(pathways: Pathways) -> None:
    english = torch.cat([mask.view(-1) for mask in pathways.mask("en").values()])
    french = torch.cat([mask.view(-1) for mask in pathways.mask("fr").values()])
    expected = float((english & french).sum() / (english | french).sum())
    summary = pathways.summary()
    assert pathways.overlap() == {("en", "fr"): pytest.approx(expected)}
    assert summary.mean_iou == pytest.approx(expected)
    assert summary.weights == len(english)
    assert summary.union_density == pytest.approx(float((english | french).float().mean()))
    assert summary.sparsity["fr"] == pytest.approx(1 - float(french.float().mean()))
    output = pathways.mask("fr")["output.weight"]
    assert summary.tensors["fr"]["output.weight"] == pytest.approx(1 - float(output.float().mean()))
    assert summary.weights / 8 * 2 <= summary.mask_bytes <= (summary.weights / 8 + len(pathways.names)) * 2


def test_a_shared_mask_is_one_mask(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, shared=True), ["en", "fr", "de"])
    assert set(pathways.overlap().values()) == {1.0}
    assert pathways.summary().mask_bytes < pathways.summary().weights / 8 + len(pathways.names)
    pathways.set_mask("fr", random_masks(pathways, 2))
    assert equal(pathways.mask("en"), pathways.mask("de"))
    assert equal(pathways.mask("en"), random_masks(pathways, 2))


def test_masks_are_the_callers_own(pathways: Pathways) -> None:
    before = pathways.mask("fr")
    for mask in pathways.mask("fr").values():
        mask.zero_()
    assert equal(pathways.mask("fr"), before)


def test_a_mask_that_does_not_fit_is_refused(pathways: Pathways) -> None:
    mask = pathways.mask("fr")
    output = mask.pop("output.weight")
    for wrong in (mask, {**mask, "output.weight": output[:1]}, {**mask, "output.weight": output.float()}):
        with pytest.raises(PathwaysError, match=r"output\.weight"):
            pathways.set_mask("fr", wrong)
    with pytest.raises(PathwaysError, match="bogus"):
        pathways.set_mask("fr", {**mask, "output.weight": output, "bogus": output})


def test_masks_come_from_runs_of_one_language_or_of_a_shared_mask(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.6), ["en", "fr", "de"])
    french = Pathways.attach(Recogniser(), PathwayConfig(sparsity=0.8), ["fr"])
    assert pathways.masks_from(french) == ["fr"]
    assert equal(pathways.mask("fr"), french.mask("fr"))
    assert not equal(pathways.mask("en"), french.mask("fr"))
    agnostic = Pathways.attach(Recogniser(), PathwayConfig(sparsity=0.7, shared=True), ["en", "de"])
    assert pathways.masks_from(agnostic) == ["en", "de"]
    assert equal(pathways.mask("de"), agnostic.mask("en"))
    with pytest.raises(PathwaysError, match="has ru, none of en, fr, de"):
        pathways.masks_from(Pathways.attach(Recogniser(), PathwayConfig(sparsity=0.8), ["ru"]))
    with pytest.raises(PathwaysError, match="another model"):
        pathways.masks_from(Pathways.attach(nn.Linear(3, 3), PathwayConfig(sparsity=0.8), ["en"]))
    with pytest.raises(PathwaysError, match="share one"):
        agnostic.masks_from(pathways)


def test_a_replaced_parameter_is_noticed(recogniser: Recogniser, pathways: Pathways) -> None:
    recogniser.output.weight = nn.Parameter(torch.zeros(7, 10))
    with pytest.raises(PathwaysError, match=r"output\.weight was replaced"), pathways.use("fr"):
        pass


def test_only_training_puts_hooks_on_a_model_and_detaching_takes_them_off(recogniser: Recogniser) -> None:
    def hooks() -> int:
        on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in recogniser.modules())
        return on_modules + sum(len(p._backward_hooks or ()) for p in recogniser.parameters())

    config = PathwayConfig(sparsity=0.5, score="activation", gradient="frozen")
    pathways = Pathways.attach(recogniser, config, ["en"])
    recogniser.eval()
    with pathways.use("en"):
        recogniser(tokens(0))
    assert hooks() == 0
    recogniser.train()
    with pathways.use("en"):
        recogniser(tokens(0))
    assert hooks() > 0
    pathways.detach()
    assert hooks() == 0
    with pytest.raises(PathwaysError, match="after detach"), pathways.use("en"):
        pass


def test_a_copy_of_the_model_is_a_model_of_its_own(recogniser: Recogniser) -> None:
    config = PathwayConfig(sparsity=0.5, score="activation", gradient="frozen")
    pathways = Pathways.attach(recogniser, config, ["en"])
    with pathways.use("en"):
        recogniser(tokens(0)).sum().backward()
    twin = copy.deepcopy(recogniser)
    with pathways.use("en"):
        twin(tokens(0)).sum().backward()
    assert all((parameter.grad != 0).any() for parameter in twin.parameters())
    assert equal(snapshot(twin), snapshot(recogniser))


def test_low_precision_copies_of_autocast_do_not_outlive_a_block(recogniser: Recogniser, pathways: Pathways) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pathways.use("en"):
            recogniser(tokens(0))
        with pathways.use("fr"):
            second = recogniser(tokens(0))
    with torch.autocast("cpu", dtype=torch.bfloat16), pathways.use("fr"):
        alone = recogniser(tokens(0))
    assert torch.equal(second, alone)


def test_evaluating_in_inference_mode_does_not_spoil_training(recogniser: Recogniser) -> None:
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.5, gradient="frozen"), ["en", "fr"])
    optimizer = torch.optim.SGD(recogniser.parameters(), lr=0.1)
    with torch.inference_mode(), pathways.use("fr"):
        recogniser.eval()(tokens(0))
    recogniser.train()
    for _ in range(2):
        with pathways.use("fr"):
            recogniser(tokens(0)).sum().backward()
        optimizer.step()
        pathways.step(optimizer)
        with torch.inference_mode():
            pathways.adapt("fr")
            assert pathways.mask("fr")["output.weight"].any()


def test_half_precision_weights(recogniser: Recogniser) -> None:
    recogniser.bfloat16()
    before = snapshot(recogniser)
    pathways = Pathways.attach(recogniser, PathwayConfig(sparsity=0.7, gradient="frozen"), ["en"])
    with pathways.use("en"):
        inside = snapshot(recogniser)
        recogniser(tokens(0)).float().sum().backward()
    assert equal(snapshot(recogniser), before)
    for name, mask in pathways.mask("en").items():
        assert torch.equal(inside[name], before[name] * mask)
        assert recogniser.get_parameter(name).grad.dtype == torch.bfloat16


def test_a_model_that_changes_precision_later(recogniser: Recogniser, pathways: Pathways) -> None:
    with pathways.use("fr"):
        pass
    recogniser.double()
    before = snapshot(recogniser)
    with pathways.use("fr"):
        assert equal(snapshot(recogniser), {**before, **pathways_extract(before, pathways)})
    assert equal(snapshot(recogniser), before)


def pathways_extract(state: dict[str, Tensor], pathways: Pathways) -> dict[str, Tensor]:
    return {name: state[name] * mask for name, mask in pathways.mask("fr").items()}


def test_a_compiled_model_follows_the_pathways() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.6, score="activation", adapt_every=1), ["en", "fr"])
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(3, 8)
    for language in ("en", "fr", "en"):
        with pathways.use(language):
            inside = compiled(x)
            assert torch.equal(inside, model(x))
            inside.sum().backward()
        assert torch.equal(compiled(x), model(x))
        assert [event.language for event in pathways.step()] == [language]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, asr_pathways; assert 'torch' not in sys.modules; asr_pathways.Pathways"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_extract_of_a_model_whose_parameters_were_renamed() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5), ["en"])
    model[0] = nn.Sequential(model[0])
    with pytest.raises(PathwaysError, match=r"the model has no 0\.weight any more: extract before it is wrapped"):
        pathways.extract("en")


def test_pruning_by_hand_narrows_and_widens_masks(recogniser: Recogniser) -> None:
    languages = ["en", "fr", "it"]
    config = PathwayConfig(sparsity=0.7, score="activation", gradient="dense", exclude=("output", "embedding"))
    pathways = Pathways.attach(recogniser, config, languages)

    def observe() -> None:
        recogniser.eval()
        for number, language in enumerate(languages):
            with pathways.use(language), pathways.calibrate(language), torch.no_grad():
                recogniser(tokens(number))

    def counts(language: str) -> list[int]:
        return [int(mask.sum()) for mask in pathways.mask(language).values()]

    observe()
    wide = pathways.prune(0.4)
    assert [event.kind for event in wide] == ["prune"] * len(languages)
    assert {event.score for event in wide} == {"activation"} and not pathways.at_target
    before = {language: pathways.mask(language) for language in languages}
    assert counts("en") == [mask.numel() - round(0.4 * mask.numel()) for mask in before["en"].values()]
    assert {event.score for event in pathways.prune(0.5)} == {"magnitude"}  # what was observed is of another network
    observe()
    assert {event.score for event in pathways.prune(0.7)} == {"activation"} and pathways.at_target
    pathways.adapt("en")  # by what was observed before, of the network at its sparsity
    for language in languages[1:]:
        now = pathways.mask(language)
        assert counts(language) == [mask.numel() - round(0.7 * mask.numel()) for mask in now.values()]
        assert not any((now[name] & ~mask).any() for name, mask in before[language].items())
    with pytest.raises(PathwaysError, match=r"prune\(0.8\): the sparsity is to be from 0 to 0.7"):
        pathways.prune(0.8)
    with pathways.use("en"), pytest.raises(PathwaysError, match=r"prune\(\) inside"):
        pathways.prune(0.5)


def test_pruning_by_hand_chooses_among_all_weights_where_zeros_are_written_in(recogniser: Recogniser) -> None:
    before = snapshot(recogniser)
    config = PathwayConfig(sparsity=0.7, gradient="parp", shared=True, exclude=("output", "embedding"))
    pathways = Pathways.attach(recogniser, config, ["en", "fr"])
    pathways.prune(0.4)
    now = recogniser.state_dict()
    for name, mask in pathways.mask("en").items():
        assert int(mask.sum()) == mask.numel() - round(0.4 * mask.numel())
        assert torch.equal(now[name], before[name] * mask)
        assert before[name][mask].abs().min() >= before[name][~mask].abs().max()
