"""Bundles that someone changed: refused in one clear line, whoever worked out the hashes."""

from __future__ import annotations

import json
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr_pathways.bundle import archive, layout
from asr_pathways.bundle.bundle import Bundle, BundleError, write_bundle
from asr_pathways.model_folder.model import AsrModel
from benchmarks import bundle_mutations as mutations


@pytest.fixture(scope="module")
def sample(five_file: Path) -> mutations.Sample:
    return mutations.Sample(five_file)


def test_whatever_byte_changes_is_noticed(sample: mutations.Sample, tmp_path: Path) -> None:
    draw = random.Random(1)
    for _ in range(250):
        content = mutations.change_bytes(sample, draw)
        assert mutations.attempt(tmp_path / "b.asrp", content, sample, exact=True) in (
            ("refused",) if content != sample.content else ("same",)
        )


def test_every_byte_between_the_parts_is_fixed(sample: mutations.Sample, five_file: Path, tmp_path: Path) -> None:
    parts = Bundle.open(five_file).config.parts
    path = tmp_path / "b.asrp"
    config = archive.open_archive(five_file).config()
    places, _ = archive._skeleton([*archive._first(config), *parts])
    inside = {at for part in parts for at in range(places[part.name], places[part.name] + part.size)}
    inside |= set(range(places[layout.CONFIG] + 20, places[layout.CONFIG] + len(config) - 20))
    outside = [at for at in range(len(sample.content)) if at not in inside]
    assert len(outside) > 600
    for at in outside:
        content = bytearray(sample.content)
        content[at] ^= 0x20
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"b\.asrp"):
            Bundle.open(path)


def test_contents_that_make_no_sense_are_refused_though_hashes_fit(sample: mutations.Sample, tmp_path: Path) -> None:
    draw, outcomes = random.Random(2), set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # that of other tests, too
    for _ in range(300):
        content = mutations.change_contents(sample, draw)
        outcomes.add(mutations.attempt(tmp_path / "b.asrp", content, sample, exact=False))
    assert "refused" in outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


Change = Callable[[dict[str, Any], dict[str, bytes]], object]


def first_tensor(header: dict[str, Any]) -> Any:
    return header["tensors"][next(iter(header["pathways"]["tensors"]))]


def larger(header: dict[str, Any], shape: list[int], **options: Any) -> None:
    """Says that the first prunable tensor has another shape, wherever that is said."""
    name = next(iter(header["pathways"]["tensors"]))
    header["tensors"][name].update(shape=shape, **options)
    header["pathways"]["tensors"][name] = shape


ATTACKS: dict[str, tuple[Change, str]] = {
    "a tensor of a trillion weights": (lambda h, p: larger(h, [10**6, 10**6]), "asks for 1,000,000,0.* weights"),
    "numbers that overflow": (lambda h, p: larger(h, [2**40, 2**40, 2**40]), "asks for"),
    "a negative size": (lambda h, p: larger(h, [-4, -4]), "greater than or equal to 0"),
    "more values than weights": (lambda h, p: first_tensor(h).update(kept=10**9), "keeps 1000000000 of"),
    "other values than the union": (lambda h, p: first_tensor(h).update(kept=1), "masks: .* do not fit|its size"),
    "an unknown dtype": (lambda h, p: first_tensor(h).update(dtype="object"), "dtype: Input should be"),
    "a pickle": (lambda h, p: p.update({"hub/pytorch_model.bin": b"\x80\x04."}), r"pytorch_model.bin is not known"),
    "code": (lambda h, p: p.update({"hub/modeling.py": b"boom()"}), r"hub/modeling.py is not known"),
    "a path upwards": (lambda h, p: p.update({"../../outside.json": b"{}"}), "should match pattern"),
    "an absolute path": (lambda h, p: p.update({"/tmp/outside.json": b"{}"}), "should match pattern"),
    "a part that nobody knows": (lambda h, p: p.update({"notes.txt": b"hi"}), "notes.txt is not known"),
    "names alike but for case": (lambda h, p: p.update({"readme.md": b"hi"}), "two have the same name"),
    "no masks": (lambda h, p: p.pop(layout.PATHWAYS), "no pathways.safetensors"),
    "no tokenizer": (lambda h, p: p.pop("tokenizer.model"), "tokenizer.model: missing"),
    "another tokenizer": (lambda h, p: p.update({"tokenizer.model": b"\x00" * 50}), "tokenizer.model: not a Sentence"),
    "another version": (lambda h, p: h.update(version=2), "bundle version 2, but this release reads 1"),
    "another format": (lambda h, p: h.update(format="zip"), "not the header of a bundle"),
    "an unknown key": (lambda h, p: h.update(code="x"), "code: unknown key"),
    "a language too many": (lambda h, p: h["pathways"]["languages"].append("de"), "masks: are of en es fr it ru, not"),
    "contexts in a circle": (lambda h, p: h["masks"]["en"].update(given=["ru"]), "given masks that are not the first"),
    "a million layers": (lambda h, p: h["card"]["model"]["encoder"].update(layers=10**6), "1000000 layers of"),
    "a model of other sizes": (lambda h, p: h["card"]["model"].update(joiner_dim=10**6), "the model has it as"),
    "huge buffers": (lambda h, p: h["card"]["model"]["encoder"].update(segment=10**7), "config.json|the model has"),
    "weights cut": (
        lambda h, p: p.update({layout.WEIGHTS: p[layout.WEIGHTS][:-4]}),
        "weights.safetensors: its size is not what its tensors take",
    ),
    "weights with another header": (
        lambda h, p: p.update({layout.WEIGHTS: b"\xff" * 8 + p[layout.WEIGHTS][8:]}),
        "weights.safetensors: does not hold the tensors",
    ),
    "masks with other bits": (
        lambda h, p: p.update({layout.PATHWAYS: p[layout.PATHWAYS][:-3000] + bytes(3000)}),
        "pathways.safetensors: (mask of|the union)",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_told_in_one_line(attack: str, sample: mutations.Sample, tmp_path: Path) -> None:
    change, message = ATTACKS[attack]
    header, parts = json.loads(json.dumps(sample.header)), dict(sample.parts)
    change(header, parts)
    described = [mutations._described(name, content) for name, content in parts.items()]
    header["parts"] = [part.model_dump() for part in described]
    path = tmp_path / "b.asrp"
    path.write_bytes(mutations.zipped(json.dumps(header).encode(), described, parts))
    with pytest.raises(BundleError, match=message) as caught:
        mutations.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ['{"version": 1, "version": 1}', "[" * 100_000, "{", "\xff", '{"x": NaN}'])
def test_odd_json_is_one_line(text: str, sample: mutations.Sample, tmp_path: Path) -> None:
    path = tmp_path / "b.asrp"
    path.write_bytes(mutations.zipped(text.encode("latin-1"), [], {}))
    with pytest.raises(BundleError, match=r"b\.asrp: config.json: not valid JSON"):
        Bundle.open(path)


# --- folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(five: AsrModel, tmp_path: Path) -> Path:
    write_bundle(five, tmp_path / "b")
    return tmp_path / "b"


def test_whatever_byte_changes_in_a_folder_is_noticed(folder: Path) -> None:
    draw = random.Random(3)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for _ in range(20):
            changed = bytearray(content)
            draw.choice((mutations.flip, mutations.truncate, mutations.insert, mutations.cut))(changed, draw)
            path.write_bytes(changed)
            with pytest.raises(BundleError, match=path.name.replace(".sha256", "")):
                mutations.load(folder)
        path.write_bytes(content)
    mutations.load(folder)


def test_a_folder_holds_its_parts_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    (folder / "more.txt").write_text("x")
    with pytest.raises(BundleError, match=r"more.txt: is no part of the bundle: take it out"):
        Bundle.open(folder)
    (folder / "more.txt").unlink()
    (folder / "README.md").rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"README.md: missing"):
        Bundle.open(folder)
    (folder / "README.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"README.md: not a plain file"):
        Bundle.open(folder)
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    with pytest.raises(BundleError, match=r"README.md: not a plain file"):
        Bundle.open(folder)


def test_what_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.asrp").write_bytes(b"")
    (tmp_path / "b.asrp").write_bytes(b"PK\x03\x04")
    (tmp_path / "c.asrp").write_bytes(b"RIFF" * 1000)
    (tmp_path / "d.asrp").write_bytes(b"PK\x03\x04" + b"\xff" * 1000)
    (tmp_path / "e").mkdir()
    for name in ("a.asrp", "b.asrp", "c.asrp", "d.asrp", "e", "nowhere.asrp", "/dev/zero"):
        with pytest.raises(BundleError) as caught:
            Bundle.open(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
