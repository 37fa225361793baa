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

from asr_pathways.bundle.bundle import Bundle, BundleError, write_bundle
from asr_pathways.bundle.layout import is_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.model_folder.model import AsrModel
from benchmarks import bundle_mutations as mutations
from benchmarks.bundle_mutations import Header, Part, Parts


@pytest.fixture(scope="module")
def sample(five_file: Path) -> mutations.Sample:
    return mutations.Sample(five_file)


def test_whatever_byte_changes_is_noticed(sample: mutations.Sample, tmp_path: Path) -> None:
    draw = random.Random(1)
    for _ in range(80):
        content = mutations.change_bytes(sample, draw)
        assert mutations.attempt(tmp_path / "b.asrp", content, sample, exact=True) in (
            ("refused",) if content != sample.content else ("same",)
        )


def test_every_byte_before_the_data_is_fixed(sample: mutations.Sample, five_file: Path, tmp_path: Path) -> None:
    path, draw = tmp_path / "b.asrp", random.Random(4)
    start = Bundle.open(five_file).layout.start
    for at in (*range(200), *draw.sample(range(start), 300), *range(start - 50, start)):
        content = bytearray(sample.content)
        content[at] ^= draw.choice((0x20, 0x01, 0x80))
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"b\.asrp"):
            Bundle.open(path)


def test_contents_that_make_no_sense_are_refused_though_hashes_fit(sample: mutations.Sample, tmp_path: Path) -> None:
    draw, outcomes = random.Random(2), set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # that of other tests, too
    for _ in range(100):
        content = mutations.change_contents(sample, draw)
        outcomes.add(mutations.attempt(tmp_path / "b.asrp", content, sample, exact=False))
    assert outcomes == {"refused", "same", "loads"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


Change = Callable[[Header, Parts], object]


def first(header: Header) -> str:
    return next(iter(header["pathways"]["tensors"]))


def larger(header: Header, shape: list[int]) -> None:
    """Says that the first prunable tensor has another shape."""
    header["pathways"]["tensors"][first(header)] = shape


def values(header: Header, parts: Parts) -> Part:
    """Those of the first prunable tensor."""
    return parts["values/" + first(header)]


def encoder(header: Header) -> Any:
    return header["card"]["model"]["encoder"]


def cut(part: Part, count: int) -> None:
    """Leaves bytes of a vector out."""
    part.data = part.data[:-count]
    part.shape = [part.shape[0] - count // (4 if part.dtype == "F32" else 1)]


ATTACKS: dict[str, tuple[Change, str]] = {
    "a tensor of a trillion weights": (lambda h, p: larger(h, [10**6, 10**6]), r"union: is \('U8', .*\), not"),
    "numbers that overflow": (lambda h, p: larger(h, [2**40, 2**40, 2**40]), r"union: is \('U8', .*\), not"),
    "a negative size": (lambda h, p: larger(h, [-4, -4]), "is no tensor that a mask covers"),
    "no columns": (lambda h, p: larger(h, [32, 0]), r"\(32, 0\) is no tensor that a mask covers"),
    "no rows and no columns": (lambda h, p: larger(h, [0, 0]), r"\(0, 0\) is no tensor that a mask covers"),
    "a whole tensor without columns": (
        lambda h, p: p.update({"values/joiner.output.weight": Part("F32", [32, 0], b"")}),
        r"values/joiner.output.weight: a tensor of float32 \(32, 0\), which is none",
    ),
    "more values than weights": (
        lambda h, p: p.update({"values/" + first(h): Part("F32", [10**5], bytes(4 * 10**5))}),
        "not what a union keeps of",
    ),
    "more values than bytes": (lambda h, p: setattr(values(h, p), "shape", [10**9]), "is not in the file where"),
    "other values than the union": (
        lambda h, p: cut(values(h, p), 4),
        r"masks/en: is \('U8', .*\), not|another number of weights",
    ),
    "an unknown dtype": (lambda h, p: setattr(values(h, p), "dtype", "object"), "dtype: Input should be"),
    "int8 without scales": (
        lambda h, p: p.update({"values/joiner.output.bias": Part("I8", [25], bytes(25))}),
        r"scales/joiner.output.bias: is None, not \('F32', \(25,\)\)",
    ),
    "a pickle": (
        lambda h, p: p.update({"files/hub/pytorch_model.bin": Part.of_bytes(b"\x80\x04.")}),
        r"pytorch_model.bin: is not known",
    ),
    "code": (lambda h, p: p.update({"files/modeling.py": Part.of_bytes(b"boom()")}), r"modeling.py: is not known"),
    "a path upwards": (lambda h, p: p.update({"files/../../b.json": Part.of_bytes(b"{}")}), "b.json: is not known"),
    "an absolute path": (lambda h, p: p.update({"files//tmp/b.json": Part.of_bytes(b"{}")}), "b.json: is not known"),
    "a part that nobody knows": (lambda h, p: p.update({"notes.txt": Part.of_bytes(b"hi")}), "notes.txt: is not known"),
    "no masks": (lambda h, p: p.pop("masks/fr"), "masks/fr: is None, not"),
    "no union": (lambda h, p: p.pop("union"), "union: is None, not"),
    "no tokenizer": (lambda h, p: p.pop("files/tokenizer.model"), "tokenizer.model: missing"),
    "another tokenizer": (
        lambda h, p: p.update({"files/tokenizer.model": Part.of_bytes(bytes(50))}),
        "tokenizer.model: not a Sentence",
    ),
    "a tokenizer of nobody": (
        lambda h, p: p.update({"files/tokenizer-de.model": Part.of_bytes(b"x")}),
        "tokenizer-de.model: is not known",
    ),
    "another version": (lambda h, p: h.update(version=3), "bundle version 3, but this release reads 2"),
    "another format": (lambda h, p: h.update(format="zip"), "header: not that of a bundle"),
    "an unknown key": (lambda h, p: h.update(code="x"), "code: unknown key"),
    "int8 without rows": (
        lambda h, p: p.update({"values/joiner.output.bias": Part("I8", [], bytes(1))}),
        r"values/joiner.output.bias: a tensor of int8 \(\), which is none",
    ),
    "a language too many": (lambda h, p: h["pathways"]["languages"].append("de"), "pathways: own_steps of a mask"),
    "a million layers": (lambda h, p: encoder(h).update(layers=10**6), "the model is larger than the tensors"),
    "a billion LSTM layers": (lambda h, p: h["card"]["model"].update(predictor_layers=10**9), "the model is larger"),
    "a model of other sizes": (lambda h, p: h["card"]["model"].update(joiner_dim=17), "the model has it as"),
    "a model of huge sizes": (lambda h, p: h["card"]["model"].update(joiner_dim=10**6), "the model is larger"),
    "a wider model": (lambda h, p: encoder(h).update(dim=32), "the model has it as"),
    "other heads": (lambda h, p: encoder(h).update(heads=4), "the model has it as"),
    "long segments": (lambda h, p: encoder(h).update(segment=10**6), "the model is larger than the tensors"),
    "other features": (lambda h, p: h["card"]["features"].update(bins=10**9), "1000000000 mel bins for a model of 80"),
    "other prunable tensors": (
        lambda h, p: h["pathways"]["config"].update(exclude=[]),
        "made for another model: it has no mask for",
    ),
    "whole numbers for fractions": (
        lambda h, p: setattr(p["values/joiner.output.bias"], "dtype", "I32"),
        "joiner.output.bias is of int32, the model has it of torch.float32",
    ),
    "a tensor too few": (lambda h, p: p.pop("values/joiner.output.bias"), "joiner.output.bias: missing"),
    "masks with other bits": (
        lambda h, p: setattr(p["union"], "data", bytes(len(p["union"].data))),
        "union: of .* another number of weights than there are values",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_reported_in_one_line(attack: str, sample: mutations.Sample, tmp_path: Path) -> None:
    change, message = ATTACKS[attack]
    header, parts = sample.copies()
    change(header, parts)
    path = tmp_path / "b.asrp"
    path.write_bytes(mutations.sealed(header, parts))
    for way in (mutations.load, mutations.stream, load_model):
        with pytest.raises(BundleError, match=message) as caught:
            way(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ['{"version": 1, "version": 1}', "[" * 100_000, "{", '{"x": NaN}'])
def test_odd_json_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "b.asrp"
    path.write_bytes(mutations.headed(text, {}))
    with pytest.raises(BundleError, match=r"b\.asrp: header: not valid JSON") as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.asrp").write_bytes(b"")
    (tmp_path / "c.asrp").write_bytes(b"RIFF" * 1000)
    (tmp_path / "d.asrp").write_bytes(b"\x02" + bytes(7) + b"{}")
    (tmp_path / "e").mkdir()
    os.mkfifo(tmp_path / "f")
    for name in ("a.asrp", "c.asrp", "d.asrp", "e", "f", "nowhere.asrp", "/dev/zero"):
        with pytest.raises(BundleError) as caught:
            Bundle.open(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_first_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.asrp").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"format": "asr-pathways bundle", "version": 1}))
    (tmp_path / "folder" / "config.json.sha256").write_text("0" * 64)
    for name in ("a.asrp", "folder"):
        assert is_bundle(tmp_path / name)
        with pytest.raises(BundleError) as caught:
            load_model(tmp_path / name)
        line = "a bundle of format 1, which is not read any more: export the model folder again"
        assert str(caught.value) == f"{tmp_path / name}: {line}"


def test_the_same_model_is_the_same_file(five: AsrModel, five_file: Path, tmp_path: Path) -> None:
    write_bundle(five, tmp_path / "again.asrp", "float32")
    assert (tmp_path / "again.asrp").read_bytes() == five_file.read_bytes()
