"""Block-wise reconstruction: what it moves, and what it must not."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.refit.blocks import Example, hidden, reconstruct
from asr_pathways.pruning.refit.refitting import Refitting
from tests.pruning.refit.test_refitting import LANGUAGES, distance, noise, pruned

STEPS = 60
LANGUAGES_AT = list(enumerate(LANGUAGES))


def flat(output: Tensor) -> Tensor:
    return output.flatten(0, -2)


def test_a_block_follows_its_targets_by_what_masks_keep() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 6)).eval()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    masks = {
        name: {language: noise(*before[name].shape, seed=7 + place) > 0 for place, language in enumerate(LANGUAGES)}
        for name in ("0.weight", "3.weight")
    }
    examples: dict[str, list[Example]] = {}
    for place, language in enumerate(LANGUAGES):
        inputs = [noise(2, 30, 6, seed=40 + 2 * place + number) for number in range(2)]
        with torch.no_grad():
            examples[language] = [Example(((x,), {}), flat(block(x)), flat) for x in inputs]

    def error(values: Mapping[str, Tensor]) -> list[float]:
        found = []
        for language, group in examples.items():
            masked = {name: value * masks[name][language] if name in masks else value for name, value in values.items()}
            outputs = [torch.func.functional_call(block, masked, *one.call) for one in group]
            pairs = zip(outputs, group, strict=True)
            found.append(sum(float((flat(out) - one.target).square().mean()) for out, one in pairs))
        return found

    with torch.no_grad():
        after = reconstruct(block, dict(block.named_parameters()), masks, examples, STEPS)
        assert all(now < 0.99 * then for now, then in zip(error(after), error(before), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    for name, of_language in masks.items():
        kept = torch.stack(list(of_language.values())).any(dim=0)
        assert torch.equal(after[name][~kept], before[name][~kept])
        assert (after[name][kept] != before[name][kept]).all()
    for name in ("0.bias", "2.weight", "2.bias", "3.bias"):
        assert (after[name] != before[name]).all()
    again = reconstruct(block, dict(block.named_parameters()), masks, examples, STEPS)
    assert all(torch.equal(value, after[name]) for name, value in again.items())


def test_pathways_come_nearer_still_and_it_goes_on_where_it_was_stopped() -> None:
    results = []
    for steps in (0, 30):
        pathways, dense, speech = pruned()
        solved: dict[str, Mapping[str, Tensor]] = {}
        refitting = Refitting(pathways, pathways.model, dense, dense, speech["en"][0])
        assert [group.completes for group in refitting.blocks] == [f"blocks.{number}" for number in range(3)]
        assert all((group.block_seconds > 0) == bool(group.completes) for group in refitting.groups)
        masks = {language: pathways.mask(language) for language in LANGUAGES}
        refitting.run(speech, steps=steps, solved=solved)
        results.append((distance(pathways, dense, speech), solved, pathways.model.state_dict(), masks))
    assert results[1][0] < 0.98 * results[0][0]
    assert set(results[1][1]) - set(results[0][1]) == {f"blocks.{number}" for number in range(3)}
    unpruned = {"shared.bias", "shared.weight"}  # run twice
    for name, value in results[1][2].items():
        assert torch.equal(value, results[0][2][name]) == (name in unpruned)
    original = pruned()[1].state_dict()
    for name in results[1][3]["en"]:
        kept = torch.stack([mask[name] for mask in results[1][3].values()]).any(dim=0)
        assert torch.equal(results[1][2][name][~kept], original[name][~kept])

    pathways, dense, speech = pruned()
    most = {name: value for name, value in results[1][1].items() if name not in ("blocks.1", "blocks.2")}
    most = {name: value for name, value in most.items() if not name.startswith("blocks.2")}
    Refitting(pathways, pathways.model, dense, dense, speech["en"][0]).run(speech, steps=30, solved=most)
    for name, value in pathways.model.state_dict().items():
        torch.testing.assert_close(value, results[1][2][name])


def test_biases_are_solved_for_with_the_weights() -> None:
    """A layer in no block, against least squares with a column of ones; a layer without a bias gets none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4, bias=False))
    dense, speech = (
        copy.deepcopy(model),
        {language: [noise(50, 6, seed=place) + place] for place, language in LANGUAGES_AT},
    )
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5), LANGUAGES)
    for place, language in LANGUAGES_AT:
        masks = {name: noise(*mask.shape, seed=place + 9) > 0 for name, mask in pathways.mask(language).items()}
        pathways.set_mask(language, masks)
    Refitting(pathways, model, dense, dense, speech["en"][0]).run(speech, ridge := 0.02, steps=1)
    inputs = {language: nn.functional.pad(x, (0, 1), value=1.0) for language, (x,) in speech.items()}
    penalty = ridge * sum(float(x.square().sum(dim=0).mean()) for x in inputs.values())
    wanted = torch.cat((dense[0].weight, dense[0].bias[:, None]), dim=1).detach()
    masks = [nn.functional.pad(pathways.mask(language)["0.weight"], (0, 1), value=True) for language in LANGUAGES]
    for row, theta in enumerate(wanted):
        left = [x * mask[row] for x, mask in zip(inputs.values(), masks, strict=True)]
        right = [x @ theta for x in inputs.values()]
        system = torch.cat([*left, penalty**0.5 * torch.eye(7)]).double()
        expected = torch.linalg.lstsq(system, torch.cat([*right, penalty**0.5 * theta]).double()).solution.float()
        kept = torch.stack(masks)[:, row].any(dim=0)
        found = torch.cat((model[0].weight[row], model[0].bias[row, None]))
        torch.testing.assert_close(found[kept], expected[kept], rtol=1e-3, atol=1e-4)
        assert torch.equal(found[~kept], theta[~kept])
    assert not torch.equal(model[1].weight, dense[1].weight)


def test_an_output_that_is_not_finite_is_named() -> None:
    block = nn.Linear(2, 2)
    call = ((torch.full((1, 2), 1e38),), {})
    with pytest.raises(PathwaysError, match="refit: an output of a block is not finite on data of fr"):
        reconstruct(block, dict(block.named_parameters()), {}, {"fr": [Example(call, torch.ones(1, 2), flat)]}, 1)


def test_the_output_of_a_block_is_the_first_tensor() -> None:
    first = torch.ones(2)
    assert hidden((None, {"states": first}, torch.zeros(1))) is first


class Counting(nn.Module):
    """Adds to the state that it is called with, as a layer of a streaming encoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, state: list[Tensor]) -> Tensor:
        out: Tensor = self.linear(x) + state[0]
        state[0] = out
        return out


def test_every_step_begins_with_the_state_of_the_call() -> None:
    torch.manual_seed(0)
    block, call = Counting(), ((noise(4, 3, seed=1), [torch.zeros(3)]), {})
    with torch.no_grad():
        target = 2 * block(call[0][0], [torch.zeros(3)])
    found = reconstruct(block, dict(block.named_parameters()), {}, {"fr": [Example(call, target, flat)]}, 3)
    assert (found["linear.weight"] != block.linear.weight).all() and not call[0][1][0].any()
