"""Masks of which all languages share the middle layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError

LANGUAGES = ("en", "fr", "it")
MIDDLE = {"encoder.2.weight", "encoder.3.weight", "decoder.1.weight"}


class Stacks(nn.Module):
    """Lists of six layers, of three, and of two, which have no middle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.encoder = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.decoder = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.front, *self.encoder, *self.decoder):
            x = torch.tanh(layer(x)) + x
        return x


def speech(language: str) -> Tensor:
    generator = torch.Generator().manual_seed(LANGUAGES.index(language))
    return torch.randn(50, 8, generator=generator) * torch.randn(8, generator=generator).exp()


def calibrated(**options: object) -> Pathways:
    values = {"sparsity": 0.5, "score": "activation", "shared_middle": True, **options}
    pathways = Pathways.attach(Stacks().eval(), PathwayConfig.model_validate(values), LANGUAGES)
    for language in LANGUAGES:
        with pathways.calibrate(language), torch.no_grad():
            pathways.model(speech(language))
    for language in LANGUAGES:
        pathways.adapt(language)
    return pathways


def shared(pathways: Pathways) -> set[str]:
    masks = [pathways.mask(language) for language in LANGUAGES]
    return {name for name in pathways.names if all(torch.equal(mask[name], masks[0][name]) for mask in masks)}


def test_the_middle_is_scored_by_all_languages_and_the_rest_by_each() -> None:
    pathways, apart = calibrated(), calibrated(shared_middle=False)
    assert shared(pathways) == MIDDLE
    assert not shared(apart) & MIDDLE
    inputs: dict[str, list[Tensor]] = {}
    for name, module in pathways.model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, x, name=name: inputs.setdefault(name, []).append(x[0]))
    with torch.no_grad():
        for language in LANGUAGES:
            pathways.model(speech(language))
    for name in pathways.names:
        weight = pathways.model.get_parameter(name).detach().abs()
        rms = [x.square().mean(dim=0).sqrt() for x in inputs[name.removesuffix(".weight")]]
        for place, language in enumerate(LANGUAGES):
            scores = weight * (sum(rms) if name in MIDDLE else rms[place])
            mask = pathways.mask(language)[name]
            assert int(mask.sum()) == 32
            assert scores[mask].min() > scores[~mask].max()


def test_one_language_adapts_the_middle_of_all(tmp_path: Path) -> None:
    pathways = calibrated()
    before = {language: pathways.mask(language) for language in LANGUAGES}
    with torch.no_grad():
        for parameter in pathways.model.parameters():
            parameter.copy_(parameter.flip(0))
    pathways.adapt("fr")
    for language in LANGUAGES:
        now = pathways.mask(language)
        changed = {name for name in now if not torch.equal(now[name], before[language][name])}
        assert changed == (set(now) if language == "fr" else MIDDLE)
    assert shared(pathways) == MIDDLE
    pathways.save(tmp_path)
    again = Pathways.load(Stacks(), tmp_path)
    assert again.config.shared_middle and shared(again) == MIDDLE


def test_masks_from_elsewhere_share_it_too() -> None:
    pathways = calibrated()
    pathways.set_mask("fr", {name: torch.ones(8, 8, dtype=torch.bool) for name in pathways.names})
    assert all(pathways.mask("it")[name].all() == (name in MIDDLE) for name in pathways.names)
    assert calibrated().masks_from(pathways) == list(LANGUAGES)
    with pytest.raises(PathwaysError, match=r"has a mask of encoder\.2\.weight for each language, and here they share"):
        calibrated().masks_from(calibrated(shared_middle=False))
    alone = Pathways.attach(Stacks(), PathwayConfig(sparsity=0.5), ["fr"])
    with pytest.raises(PathwaysError, match=r"has fr alone, and here all share the mask of encoder\.2\.weight"):
        calibrated().masks_from(alone)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(PathwaysError, match="add: the languages share their middle layers' masks"):
        calibrated().add("de", 0.6)
    with pytest.raises(PathwaysError, match="shared_middle: the model has no list of three or more layers"):
        Pathways.attach(nn.Sequential(nn.Linear(4, 4)), PathwayConfig(sparsity=0.5, shared_middle=True), ["en"])


def test_a_state_from_before_the_option_is_still_taken() -> None:
    pathways = calibrated(shared_middle=False)
    state = pathways.state_dict()
    del state["config"]["shared_middle"]
    pathways.load_state_dict(state)
    with pytest.raises(PathwaysError, match="shared_middle was False, is True"):
        calibrated().load_state_dict(state)
