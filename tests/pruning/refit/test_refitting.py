"""Refitting against plain least squares, and on models of several layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.refit.dataflow import Group
from asr_pathways.pruning.refit.refitting import Refitting, _Side, solve


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_row_is_the_solution_of_least_squares() -> None:
    """All pathways' equations of a row, written below each other, by torch.linalg.lstsq."""
    rows, columns, frames, ridge = 5, 8, 30, 0.02
    weight = noise(rows, columns, seed=0)
    masks = [noise(rows, columns, seed=language + 1) > 0.3 for language in range(3)]
    heard = [noise(columns, frames, seed=language + 10) for language in range(3)]
    sparse = [x + 0.1 * noise(columns, frames, seed=language + 20) for language, x in enumerate(heard)]
    grams = [z @ z.T for z in sparse]
    crosses = [x @ z.T for x, z in zip(heard, sparse, strict=True)]
    found = solve(weight, masks, grams, crosses, ridge)
    penalty = ridge * sum(float(gram.diagonal().mean()) for gram in grams)
    for row in range(rows):
        left = [(mask[row, :, None] * z).T for mask, z in zip(masks, sparse, strict=True)]
        right = [x.T @ weight[row] for x in heard]
        system = torch.cat([*left, penalty**0.5 * torch.eye(columns)]).double()
        wanted = torch.cat([*right, penalty**0.5 * weight[row]]).double()
        expected = torch.linalg.lstsq(system, wanted).solution
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-3, atol=1e-4)
    nowhere = ~torch.stack(masks).any(dim=0)
    assert nowhere.any() and torch.equal(found[nowhere], weight[nowhere])


def test_full_masks_and_silence_change_nothing() -> None:
    weight, heard = noise(4, 6, seed=0), noise(6, 50, seed=1)
    gram = heard @ heard.T
    everything = torch.ones(4, 6, dtype=torch.bool)
    torch.testing.assert_close(solve(weight, [everything], [gram], [gram], 0.01), weight)
    none = torch.zeros(6, 6)
    assert torch.equal(solve(weight, [everything], [none], [none], 0.01), weight)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.query(x)) * self.value(x)
        hidden += 0.0  # models may change in place what a layer gave
        return x + self.out(hidden)


class Model(nn.Module):
    """Blocks, one of which runs twice."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(width) for _ in range(3)])
        self.shared = nn.Linear(width, width)
        self.output = nn.Linear(width, 4)

    def trunk(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
            x.mul_(1.0)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.shared(torch.tanh(self.shared(self.trunk(x)))))


LANGUAGES = ("en", "fr")


def pruned() -> tuple[Pathways, Model, dict[str, list[Tensor]]]:
    model = Model().eval()
    dense = copy.deepcopy(model)
    speech = {
        language: [noise(40, 16, seed=10 * number + place) @ mix for place in range(4)]
        for number, language in enumerate(LANGUAGES)
        for mix in [noise(16, 5, seed=99 + number) @ noise(5, 16, seed=199 + number) / 10]
    }
    config = PathwayConfig(sparsity=0.5, score="activation")
    pathways = Pathways.attach(model, config, LANGUAGES)
    for language, batches in speech.items():
        with pathways.calibrate(language), torch.no_grad():
            for batch in batches:
                model(batch)
        pathways.adapt(language)
    return pathways, dense, speech


def distance(pathways: Pathways, dense: Model, speech: dict[str, list[Tensor]]) -> float:
    """Of what the blocks give."""
    total, model = 0.0, pathways.model
    assert isinstance(model, Model)
    for language, batches in speech.items():
        with pathways.use(language), torch.no_grad():
            total += sum(float((model.trunk(batch) - dense.trunk(batch)).square().mean()) for batch in batches)
    return total


def test_pathways_come_nearer_to_the_dense_model() -> None:
    pathways, dense, speech = pruned()
    masks = {language: pathways.mask(language) for language in LANGUAGES}
    before, shared = distance(pathways, dense, speech), pathways.model.shared.weight.clone()
    seen: list[Group] = []

    def progress(groups):  # type: ignore[no-untyped-def]
        seen.extend(groups)
        return groups

    Refitting(pathways, pathways.model, dense, dense, speech["en"][0]).run(speech, progress=progress)
    assert distance(pathways, dense, speech) < 0.3 * before
    assert torch.equal(pathways.model.shared.weight, shared)  # it runs twice
    for language in LANGUAGES:
        assert all(torch.equal(mask, masks[language][name]) for name, mask in pathways.mask(language).items())
    assert [group.layers for group in seen[:3]] == [
        ("blocks.0.query.weight", "blocks.0.value.weight"),
        ("blocks.0.out.weight",),
        ("blocks.1.query.weight", "blocks.1.value.weight"),
    ]
    assert seen[1].finished == () and seen[2].finished == seen[2].needed == ("blocks.0",)
    assert seen[4].finished == ("blocks.0", "blocks.1") and seen[4].needed == ("blocks.1",)
    names = {name for name, module in dense.named_modules() if isinstance(module, nn.Linear)}
    assert all("forward" not in vars(module) for module in pathways.model.modules())
    assert {name.rpartition(".")[0] for group in seen for name in group.layers} == names - {"shared"}


def test_zeros_that_were_written_in_stay_and_are_made_up_for() -> None:
    """PARP's weights are not the dense ones any more where they are cut."""
    found = []
    for policy in ("frozen", "parp"):
        _, dense, speech = pruned()
        model = copy.deepcopy(dense)
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, gradient=policy, shared=True), ["en"])
        Refitting(pathways, model, dense, dense, speech["en"][0]).run(speech)
        found.append(pathways.extract("en"))
        own = dict(model.named_parameters())
        cut = {name: own[name][~mask] for name, mask in pathways.mask("en").items()}
        assert all(bool((values == 0).all()) == (policy == "parp") for values in cut.values())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight)


def test_what_has_run_is_not_run_again_and_gives_the_same() -> None:
    """Against refitting without anything kept: the layers of each group from whole forward passes."""
    pathways, dense, speech = pruned()
    other, _, _ = pruned()
    Refitting(pathways, pathways.model, dense, dense, speech["en"][0]).run(speech)

    def forget(groups):  # type: ignore[no-untyped-def]
        return [replace(group, finished=(), needed=()) for group in groups]

    Refitting(other, other.model, dense, dense, speech["en"][0]).run(speech, progress=forget)
    for name, weight in pathways.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], weight)


def test_memory_does_not_grow_with_blocks_and_is_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    pathways, dense, speech = pruned()
    refitting = Refitting(pathways, pathways.model, dense, dense, speech["en"][0])
    sides: list[object] = []
    monkeypatch.setattr(
        "asr_pathways.pruning.refit.refitting._Side", lambda *given: sides.append(_Side(*given)) or sides[-1]
    )
    kept = []

    def watch(groups):  # type: ignore[no-untyped-def]
        for group in groups:
            yield group
            tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _outputs(sides)}
            kept.append(sum(tensors.values()))

    refitting.run(speech, progress=watch)
    one = 2 * sum(batch.nbytes for batches in speech.values() for batch in batches)  # of a block, of both models
    small = 4 * 3 * 2 * 8  # what stands in for the others
    assert max(kept) <= one + small and max(kept[2:6]) > 0
    weights = sum(layer.weight.numel() for layer in dense.modules() if isinstance(layer, nn.Linear))
    assert one < refitting.bytes(4) < one + 4 * (2 * weights + 8 * 256 + 12 * 256)


def _outputs(sides):  # type: ignore[no-untyped-def]
    return [t for side in sides for named in side._outputs.values() for t in named.values() if isinstance(t, Tensor)]


def test_it_goes_on_where_it_was_stopped() -> None:
    straight, dense, speech = pruned()
    Refitting(straight, straight.model, dense, dense, speech["en"][0]).run(speech)
    solved: dict[str, Mapping[str, Tensor]] = {}
    stopped, _, _ = pruned()

    def three(groups):  # type: ignore[no-untyped-def]
        yield from groups[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Refitting(stopped, stopped.model, dense, dense, speech["en"][0]).run(speech, progress=three, solved=solved)
    assert len(solved) == 3
    again, _, _ = pruned()
    Refitting(again, again.model, dense, dense, speech["en"][0]).run(speech, solved=solved)
    for name, weight in straight.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight)


def test_padding_is_left_out() -> None:
    found = []
    for padding in (0.0, 9.0):
        pathways, dense, speech = pruned()
        wide = {lang: [F.pad(b, (0, 0, 0, 20), value=padding) for b in batches] for lang, batches in speech.items()}
        marked = torch.arange(60) < 40
        Refitting(pathways, pathways.model, dense, dense, wide["en"][0], lambda _, marked=marked: {"*": marked}).run(
            wide
        )
        found.append(pathways.model.state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight)


def test_it_is_refused_where_it_would_do_harm() -> None:
    pathways, dense, speech = pruned()
    with pytest.raises(PathwaysError, match="refit: no batches of fr"):
        Refitting(pathways, pathways.model, dense, dense, speech["en"][0]).run({"en": speech["en"]})
    pathways.add("de", 0.8)
    with pytest.raises(PathwaysError, match="refit: 'de' was added"):
        Refitting(pathways, pathways.model, dense, dense, speech["en"][0])
    pathways, dense, speech = pruned()
    speech["fr"][2][3, 3] = float("inf")
    with pytest.raises(PathwaysError, match=r"refit: inputs of blocks.0.query.weight are not finite on data of fr"):
        Refitting(pathways, pathways.model, dense, dense, speech["en"][0]).run(speech)
