from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from tests.pruning.conftest import Recogniser, tokens


@pytest.fixture
def saved(recogniser: Recogniser, tmp_path: Path) -> tuple[Pathways, Path]:
    config = PathwayConfig(sparsity=0.6, granularity="block:2x1", adapt_every=5, exclude=("output",))
    pathways = Pathways.attach(recogniser, config, ["en", "fr"])
    for number, language in enumerate(pathways.languages):
        generator = torch.Generator().manual_seed(number)
        mask = {n: torch.rand(m.shape, generator=generator) < 0.4 for n, m in pathways.mask(language).items()}
        pathways.set_mask(language, mask)
    with pathways.use("fr"):
        recogniser(tokens(0))
    pathways.step()
    folder = tmp_path / "pathways"
    pathways.save(folder)
    return pathways, folder


def test_masks_config_and_clocks_come_back(saved: tuple[Pathways, Path]) -> None:
    pathways, folder = saved
    loaded = Pathways.load(Recogniser(), folder)
    assert loaded.config == pathways.config
    assert loaded.languages == pathways.languages
    assert loaded.sparsity == pathways.sparsity
    before, after = pathways.state_dict(), loaded.state_dict()
    assert (after["step"], after["own_steps"]) == (before["step"], before["own_steps"]) == (1, {"en": 0, "fr": 1})
    for language in pathways.languages:
        mask = loaded.mask(language)
        assert mask.keys() == pathways.mask(language).keys()
        assert all(torch.equal(mask[name], other) for name, other in pathways.mask(language).items())


def test_a_folder_takes_one_bit_a_weight_and_loading_leaves_weights_alone(saved: tuple[Pathways, Path]) -> None:
    pathways, folder = saved
    assert {path.name for path in folder.iterdir()} == {"pathways.json", "masks.safetensors"}
    header = 8 + int.from_bytes((folder / "masks.safetensors").read_bytes()[:8], "little")
    assert (folder / "masks.safetensors").stat().st_size == header + pathways.summary().mask_bytes
    model = Recogniser()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Pathways.load(model, folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_saving_again_replaces_and_other_files_are_never_touched(saved: tuple[Pathways, Path], tmp_path: Path) -> None:
    pathways, folder = saved
    pathways.set_mask("en", pathways.mask("fr"))
    pathways.save(folder)
    assert Pathways.load(Recogniser(), folder).overlap() == {("en", "fr"): 1.0}
    other = tmp_path / "run"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(PathwaysError, match=r"holds model\.safetensors beside pathways"):
        pathways.save(other)
    assert (other / "model.safetensors").read_bytes() == b"precious"
    with pytest.raises(PathwaysError, match="is a file"):
        pathways.save(other / "model.safetensors")


def test_going_back_to_saved_masks(saved: tuple[Pathways, Path], recogniser: Recogniser) -> None:
    pathways, folder = saved
    before = pathways.mask("en")
    pathways.set_mask("en", pathways.mask("fr"))
    with pathways.use("en"):
        pass
    pathways.step()
    pathways.load_masks(folder)
    assert all(torch.equal(mask, before[name]) for name, mask in pathways.mask("en").items())
    assert pathways.steps == 1
    with pytest.raises(PathwaysError, match="has other pathways"):
        Pathways.attach(Recogniser(), pathways.config, ["en"]).load_masks(folder)


def test_masks_may_be_taken_from_a_folder(saved: tuple[Pathways, Path]) -> None:
    pathways, folder = saved
    config = PathwayConfig(sparsity=0.5, exclude=("output",))
    other = Pathways.attach(Recogniser(), config, ["fr", "de"])
    assert other.masks_from(folder) == ["fr"]
    assert all(torch.equal(mask, other.mask("fr")[name]) for name, mask in pathways.mask("fr").items())


@pytest.mark.parametrize(("structure", "sparsity"), [("block:4x1", 0.5), ("block:3x5", 0.5), ("2:4", 0.5)])
def test_masks_of_another_structure_are_refused(structure: str, sparsity: float, tmp_path: Path) -> None:
    """Else a model said to be of blocks would have single weights, and be as slow as one."""
    torch.manual_seed(0)

    def attached(granularity: str) -> Pathways:
        config = PathwayConfig(sparsity=sparsity, granularity=granularity)
        return Pathways.attach(nn.Sequential(nn.Linear(16, 10), nn.Linear(10, 4)), config, ["en"])

    same, single = attached(structure), attached("unstructured")
    here = attached(structure)
    for source, folder in ((same, tmp_path / "same"), (single, tmp_path / "single")):
        source.save(folder)
    assert here.masks_from(tmp_path / "same") == ["en"]
    assert all(torch.equal(mask, same.mask("en")[name]) for name, mask in here.mask("en").items())
    with pytest.raises(PathwaysError, match=f"masks are not of granularity {structure}, as that of 0.weight"):
        here.masks_from(tmp_path / "single")
    assert single.masks_from(same) == ["en"]  # whose units are single weights: any will do


def test_a_folder_of_another_model_is_refused(saved: tuple[Pathways, Path]) -> None:
    model = Recogniser()
    model.convolution = nn.Conv1d(6, 8, 5, padding=2, groups=2)
    with pytest.raises(PathwaysError, match=r"convolution\.weight was \[8, 3, 3\], is \[8, 3, 5\]"):
        Pathways.load(model, saved[1])
    model.convolution = nn.Identity()
    with pytest.raises(PathwaysError, match=r"no prunable convolution\.weight"):
        Pathways.load(model, saved[1])


def edit(folder: Path, **changes: object) -> None:
    path = folder / "pathways.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "pathways.json").unlink(), r"no pathways\.json"),
        (lambda folder: (folder / "pathways.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "pathways.json").write_text("[]"), "not a description"),
        (lambda folder: edit(folder, format="other"), "not a description"),
        (lambda folder: edit(folder, version=99), "version 99"),
        (lambda folder: edit(folder, config={"sparsity": 3}), r"config\.sparsity"),
        (lambda folder: edit(folder, languages=["en", "de"]), "'de'"),
        (lambda folder: edit(folder, languages=["en", "en"]), "twice"),
        (lambda folder: (folder / "masks.safetensors").unlink(), "cannot read"),
        (lambda folder: truncate(folder / "masks.safetensors"), "truncated or changed"),
    ],
)
def test_a_broken_or_foreign_folder_is_refused_in_one_line(
    saved: tuple[Pathways, Path], damage: object, message: str
) -> None:
    damage(saved[1])  # type: ignore[operator]
    with pytest.raises(PathwaysError, match=message) as caught:
        Pathways.load(Recogniser(), saved[1])
    assert "\n" not in str(caught.value)
    assert str(saved[1]) in str(caught.value) or "languages" in str(caught.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
