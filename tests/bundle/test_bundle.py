from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from asr_pathways.bundle.bundle import Bundle, BundleError, write_bundle
from asr_pathways.bundle.layout import Quantity, Score
from asr_pathways.bundle.load import load_model
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import PathwayConfig, Pathways
from asr_pathways.pruning.masks import unpack
from asr_pathways.runtime.streaming import StreamingTransducer
from tests.conftest import make_model
from tests.pruned import FIVE, pruned


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state_dicts have the same bits."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and value.numpy().tobytes() == second[name].numpy().tobytes()
        for name, value in first.items()
    )


def test_an_exact_bundle_comes_back_bit_for_bit(five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    path = tmp_path / "five.asrp"
    sizes = write_bundle(five, path, "float32")
    bundle = Bundle.open(path)
    bundle.verify()
    assert bundle.languages == five.languages
    found = bundle.model()
    assert found.card == five.card
    assert found.pathways is not None
    assert not found.model.training
    for language in five.languages:
        expected = five.pathways.extract(language)
        assert same(bundle.weights(language), expected)
        assert same(found.pathways.extract(language), expected)
        assert same(bundle.mask(language), five.pathways.mask(language))
    assert sizes.total == sum(sizes.parts.values()) == path.stat().st_size
    assert sizes.masks.keys() == set(five.languages)
    assert sizes.weights == five.pathways.summary().weights
    assert sizes.union_density == pytest.approx(five.pathways.summary().union_density)


@settings(deadline=None, max_examples=8)
@given(
    st.lists(st.sampled_from(FIVE), min_size=1, max_size=5, unique=True),
    st.floats(0, 0.999),
    st.integers(0, 2**20),
)
def test_any_masks_come_back(
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    languages: list[str],
    sparsity: float,
    seed: int,
) -> None:
    asr = pruned(tokenizer, languages, sparsity, seed)
    assert asr.pathways is not None
    with torch.no_grad():  # bits that arithmetic would not keep
        asr.model.get_parameter(asr.pathways.names[0]).view(-1)[:4] = torch.tensor([-0.0, torch.inf, 1e-42, torch.nan])
    path = tmp_path_factory.mktemp("any") / "b.asrp"
    write_bundle(asr, path, "float32")
    found = Bundle.open(path).model().pathways
    assert found is not None
    for language in languages:
        assert same(found.mask(language), asr.pathways.mask(language))
        assert same(found.extract(language), asr.pathways.extract(language))


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("int8", 1 / 250)])
def test_fewer_bits_are_near(dtype: Quantity, error: float, five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    write_bundle(five, tmp_path / "b.asrp", dtype)
    bundle = Bundle.open(tmp_path / "b.asrp")
    for language in ("en", "ru"):
        expected, found = five.pathways.extract(language), bundle.weights(language)
        mask = bundle.mask(language)
        for name, value in expected.items():
            if value.dim() < 2:
                assert torch.equal(found[name], value)
            else:
                largest = value.abs().amax(dim=tuple(range(1, value.dim())), keepdim=True)
                bound = largest * error if dtype == "int8" else value.abs() * error + 1e-7
                # a row's scale is of the union, whose largest weight may be another language's
                union = five.model.get_parameter(name).abs().amax() * error
                assert ((found[name] - value).abs() <= torch.maximum(bound, union)).all()
            if name in mask:
                assert not found[name][~mask[name]].any()


def test_values_too_large_for_float16_stay_float32(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = pruned(tokenizer)
    assert asr.pathways is not None
    name = asr.pathways.names[3]
    with torch.no_grad():
        asr.model.get_parameter(name).mul_(1e8)
    write_bundle(asr, tmp_path / "b.asrp")
    bundle = Bundle.open(tmp_path / "b.asrp")
    assert bundle.values(name).values.dtype == np.float32
    assert torch.equal(bundle.weights("fr")[name], asr.pathways.extract("fr")[name])


def test_outputs_are_the_same(five: AsrModel, five_file: Path) -> None:
    found = load_model(five_file)
    features, lengths = torch.randn(2, 90, 80), torch.tensor([90, 55])
    for language in five.languages:
        with five.use(language), found.use(language), torch.no_grad():
            assert torch.equal(
                five.model.encodings(features, lengths, language)[0],
                found.model.encodings(features, lengths, language)[0],
            )
            assert five.model.decode(features, lengths, language) == found.model.decode(features, lengths, language)


def test_some_languages_take_less(five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    every = write_bundle(five, tmp_path / "five.asrp", "float32")
    two = write_bundle(five, tmp_path / "two.asrp", "float32", ["it", "en"])
    assert two.total < every.total
    bundle = Bundle.open(tmp_path / "two.asrp")
    assert bundle.languages == ("en", "it")
    assert bundle.config.card.languages == ("en", "it")
    assert same(bundle.weights("it"), five.pathways.extract("it"))
    with pytest.raises(BundleError, match=r"unknown language 'fr': the bundle has en it"):
        bundle.mask("fr")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_language_is_extracted_as_it_is(dtype: Quantity, five: AsrModel, tmp_path: Path) -> None:
    write_bundle(five, tmp_path / "five.asrp", dtype, scores={"ru": Score(wer=0.1, words=7)})
    bundle = Bundle.open(tmp_path / "five.asrp")
    sizes = bundle.extract("ru", tmp_path / "ru.asrp")
    one = Bundle.open(tmp_path / "ru.asrp")
    assert one.languages == ("ru",)
    assert same(one.weights("ru"), bundle.weights("ru"))
    assert sizes.union_density == pytest.approx(0.3, abs=0.01)
    assert one.config.scores["ru"].wer == 0.1
    one.model()


def test_one_language_reads_no_other_mask(five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    write_bundle(five, tmp_path / "b.asrp", "float32")
    content = bytearray((tmp_path / "b.asrp").read_bytes())
    layout = Bundle.open(tmp_path / "b.asrp").layout
    for other in ("en", "es", "fr", "it"):
        content[layout.start + layout.slots[f"masks/{other}"].data_offsets[0]] ^= 1
    (tmp_path / "b.asrp").write_bytes(content)
    bundle = Bundle.open(tmp_path / "b.asrp")
    assert same(bundle.weights("ru"), five.pathways.extract("ru"))
    with pytest.raises(BundleError, match=r"b\.asrp: masks/es: changed since it was written"):
        bundle.weights("es")


def test_one_mask_for_all(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = make_model(tokenizer)
    config = PathwayConfig(sparsity=0.6, shared=True, exclude=asr.model.unprunable)
    asr.pathways = Pathways.attach(asr.model, config, ["en", "fr"])
    sizes = write_bundle(asr, tmp_path / "b.asrp", "float32")
    assert list(sizes.masks) == ["shared"]
    bundle = Bundle.open(tmp_path / "b.asrp")
    assert same(bundle.weights("fr"), asr.pathways.extract("fr"))
    assert same(bundle.model().pathways.extract("en"), asr.pathways.extract("en"))  # type: ignore[union-attr]
    bundle.extract("fr", tmp_path / "fr.asrp")
    assert same(Bundle.open(tmp_path / "fr.asrp").weights("fr"), asr.pathways.extract("fr"))


def test_very_sparse_masks_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = pruned(tokenizer, ("en", "fr"), sparsity=0.9999)
    write_bundle(asr, tmp_path / "b.asrp", "int8")
    assert asr.pathways is not None
    assert same(Bundle.open(tmp_path / "b.asrp").mask("fr"), asr.pathways.mask("fr"))


# --- added languages --------------------------------------------------------------------------------------------


@pytest.fixture
def extended(tokenizer: Tokenizer) -> AsrModel:
    """Two languages and one that was added, whose own tensors differ from the model's."""
    asr = pruned(tokenizer, ("en", "fr"), 0.75)
    assert asr.pathways is not None
    asr.pathways.add("it", 0.6)
    with torch.no_grad():
        for tensor in asr.pathways.language_tensors("it").values():
            if tensor.requires_grad:
                tensor.add_(0.25)
    asr.card = asr.card.model_copy(update={"languages": ("en", "fr", "it")})
    return asr


def test_added_languages_keep_their_own_tensors(extended: AsrModel, tmp_path: Path) -> None:
    assert extended.pathways is not None
    write_bundle(extended, tmp_path / "b.asrp", "float32")
    bundle = Bundle.open(tmp_path / "b.asrp")
    bundle.verify()
    found = bundle.model().pathways
    assert found is not None
    assert found.added == ("it",)
    for language in ("en", "fr", "it"):
        assert same(bundle.weights(language), extended.pathways.extract(language))
        assert same(found.extract(language), extended.pathways.extract(language))


def test_an_added_language_can_stand_alone(extended: AsrModel, tmp_path: Path) -> None:
    assert extended.pathways is not None
    write_bundle(extended, tmp_path / "b.asrp", "float32")
    Bundle.open(tmp_path / "b.asrp").extract("it", tmp_path / "it.asrp")
    one = Bundle.open(tmp_path / "it.asrp")
    assert same(one.weights("it"), extended.pathways.extract("it"))
    assert one.model().pathways.added == ()  # type: ignore[union-attr]
    write_bundle(extended, tmp_path / "two.asrp", "float32", ["fr", "it"])
    assert same(Bundle.open(tmp_path / "two.asrp").weights("it"), extended.pathways.extract("it"))


def test_one_with_word_pieces_of_its_own_cannot(extended: AsrModel, tmp_path: Path) -> None:
    from asr_pathways.data.tokenizer import ExtendedTokenizer, TokenizerFamily

    assert isinstance(extended.tokenizer, Tokenizer)
    assert extended.pathways is not None
    new = Tokenizer.train(["ciao mondo", "buon giorno mondo"] * 5, 14)
    extended.pathways.set_language_tensors("it", extended.model.grown(14))  # type: ignore[operator]
    extended.tokenizer = TokenizerFamily(extended.tokenizer, {"it": ExtendedTokenizer(extended.tokenizer, new)})
    extended.card = extended.card.model_copy(update={"added": ("it",)})
    write_bundle(extended, tmp_path / "b.asrp", "float32")
    bundle = Bundle.open(tmp_path / "b.asrp")
    found = bundle.model()
    assert found.tokenizer.encode("ciao", "it") == extended.tokenizer.encode("ciao", "it")
    assert same(bundle.weights("it"), extended.pathways.extract("it"))
    with pytest.raises(BundleError, match=r"it: added to other languages and tied to them: keep one of en fr too"):
        bundle.extract("it", tmp_path / "it.asrp")
    bundle.extract("fr", tmp_path / "fr.asrp")
    assert list(Bundle.open(tmp_path / "fr.asrp").layout.under("files/")) == ["tokenizer.model"]


# --- as a file --------------------------------------------------------------------------------------------------


def test_other_programs_read_it(five: AsrModel, five_file: Path) -> None:
    assert five.pathways is not None
    with safe_open(five_file, framework="np") as opened:
        header = json.loads(opened.metadata()["asr-pathways"])
        assert set(opened.keys()) == set(header["sha256"])
        for name in opened.keys():  # noqa: SIM118 - it is no dict
            assert hashlib.sha256(opened.get_tensor(name).tobytes()).hexdigest() == header["sha256"][name]
    head = five_file.read_bytes()[: Bundle.open(five_file).layout.start]
    assert hashlib.sha256(head.replace(header["digest"].encode(), b"0" * 64)).hexdigest() == header["digest"]


def test_the_reader_in_the_document_reads_it(five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    text = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    code = text.split("<!-- reader -->\n```python\n")[1].split("```")[0]
    write_bundle(five, tmp_path / "five.asrp", "float32")
    names: dict[str, object] = {"path": tmp_path / "five.asrp", "language": "fr"}
    exec(compile(code, "docs/bundle.md", "exec"), names)
    weights = names["weights"]
    assert isinstance(weights, dict)
    assert same({name: torch.from_numpy(value) for name, value in weights.items()}, five.pathways.extract("fr"))


def test_data_are_aligned(five_file: Path) -> None:
    layout = Bundle.open(five_file).layout
    assert {slot.item for slot in layout.slots.values()} == {"float32", "uint8"}
    for slot in layout.slots.values():
        assert (layout.start + slot.data_offsets[0]) % np.dtype(slot.item).itemsize == 0


def test_a_bundle_of_a_bundle_is_the_same_file(five_file: Path, tmp_path: Path) -> None:
    write_bundle(load_model(five_file), tmp_path / "again.asrp", "float32")
    assert (tmp_path / "again.asrp").read_bytes() == five_file.read_bytes()


def test_only_what_can_be_bundled_is(tokenizer: Tokenizer, five: AsrModel, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no pathways, and a bundle is of pathways: prune it first"):
        write_bundle(make_model(tokenizer), tmp_path / "b.asrp")
    with pytest.raises(BundleError, match="unknown language 'de'"):
        write_bundle(five, tmp_path / "b.asrp", languages=["de"])
    with pytest.raises(BundleError, match=r"letter.txt: a bundle is one file: choose a name that ends in .asrp"):
        write_bundle(five, tmp_path / "letter.txt")
    (tmp_path / "d.asrp").mkdir()
    with pytest.raises(BundleError, match=r"d.asrp: a folder: choose a name for a file"):
        write_bundle(five, tmp_path / "d.asrp")
    assert [path.name for path in tmp_path.iterdir()] == ["d.asrp"]


def test_a_bundle_takes_the_place_of_another(five: AsrModel, tmp_path: Path) -> None:
    for languages in (["en", "fr"], ["it"]):
        write_bundle(five, tmp_path / "b.asrp", languages=languages)
        assert Bundle.open(tmp_path / "b.asrp").languages == tuple(languages)


def test_values_are_those_of_the_union(five_file: Path) -> None:
    bundle = Bundle.open(five_file)
    name = next(iter(bundle.layout.prunable))
    found = bundle.values(name)
    assert found.values.shape == (bundle.layout.kept_of(name),)
    assert not found.values.flags.writeable
    assert torch.equal(torch.from_numpy(found.values.copy()), dense_union(bundle, name))
    with pytest.raises(BundleError, match="no tensor nothing"):
        bundle.values("nothing")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_arrays_are_what_the_tensors_are(dtype: Quantity, extended: AsrModel, tmp_path: Path) -> None:
    write_bundle(extended, tmp_path / "b.asrp", dtype)
    bundle = Bundle.open(tmp_path / "b.asrp")
    dense = bundle.dense()
    for name in bundle.layout.prunable:
        union = unpack(torch.from_numpy(bundle.union_bits(name)), bundle.layout.tensors[name])
        assert np.array_equal(bundle.union_array(name), dense[name][union].numpy())
        for key in bundle.layout.keys:
            kept = unpack(torch.from_numpy(bundle.mask_bits(key, name)), bundle.layout.tensors[name])
            assert torch.equal(kept, bundle.mask(key)[name])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_weights_are_read_once_and_refused_if_they_changed(
    dtype: Quantity, five: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.asrp"
    write_bundle(five, path, dtype)
    bundle = Bundle.open(path)
    name = next(iter(bundle.layout.prunable))
    bundle.union_bits(name)
    parts = [bundle.layout.slots[part + name] for part in ("values/", "scales/") if part + name in bundle.layout.slots]
    sizes, read = list[int](), os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: (sizes.append(read(*args)), sizes[-1])[1])
    found = bundle.union_array(name)
    assert sum(sizes) == sum(part.nbytes for part in parts) and len(parts) == (2 if dtype == "int8" else 1)
    assert found.shape == (bundle.layout.kept_of(name),)
    for part in parts:
        content = bytearray(path.read_bytes())
        content[bundle.layout.start + part.data_offsets[0]] ^= 1
        (tmp_path / "changed.asrp").write_bytes(content)
        with pytest.raises(BundleError, match=rf"changed\.asrp: (values|scales)/{name}: changed since it was written"):
            Bundle.open(tmp_path / "changed.asrp").union_array(name)
    path.write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match="was written to since it was opened"):
        bundle.union_array(name)


def dense_union(bundle: Bundle, name: str) -> torch.Tensor:
    """Values of the union of a tensor, from the states of all languages."""
    union = unpack(torch.from_numpy(bundle.union_bits(name).copy()), bundle.layout.tensors[name])
    found = torch.zeros(union.shape)
    for language in bundle.languages:
        mask = bundle.mask(language)[name]
        found[mask] = bundle.weights(language)[name][mask]
    return found[union]


def test_masks_take_a_bit_a_weight_of_the_union(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asr = pruned(tokenizer)
    sizes = write_bundle(asr, tmp_path / "b.asrp")
    assert sizes.mask_bits == pytest.approx(1 + 5 * sizes.union_density, abs=0.1)
    assert set(sizes.masks) == set(FIVE)


# --- written to while it is open --------------------------------------------------------------------------------


def later(path: Path) -> None:
    """Clocks of file systems are coarse: moves the time of the last change on."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**7))


@pytest.mark.parametrize("change", ["overwritten", "cut"])
def test_what_is_written_to_while_it_is_open_is_noticed(change: str, five: AsrModel, tmp_path: Path) -> None:
    path = tmp_path / "b.asrp"
    write_bundle(five, path, "float32")
    recognizer, bundle = StreamingTransducer(path, precision="float32"), Bundle.open(path)
    recognizer.load("en")
    bundle.weights("en")
    with path.open("r+b") as stream:
        if change == "cut":
            stream.truncate(4096)
        else:
            stream.seek(len(path.read_bytes()) // 2)
            stream.write(b"x" * 100)
    later(path)
    for read in (lambda: bundle.weights("en"), lambda: bundle.mask("fr"), lambda: recognizer.load("fr")):
        with pytest.raises(BundleError, match=r"b\.asrp: was written to since it was opened: open it again"):
            read()


@pytest.mark.parametrize("change", ["a value", "a mask", "cut"])
def test_the_same_time_of_change_hides_nothing(change: str, five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    path = tmp_path / "b.asrp"
    write_bundle(five, path, "float32")
    recognizer, bundle = StreamingTransducer(path, precision="float32"), Bundle.open(path)
    recognizer.load("en")
    bundle.verify()
    name = next(iter(bundle.layout.prunable))
    value, before = bundle.values(name), path.stat()
    slot = bundle.layout.slots["masks/fr" if change == "a mask" else f"values/{name}"]
    with path.open("r+b") as stream:
        if change == "cut":
            stream.truncate(4096)
        else:
            stream.seek(bundle.layout.start + slot.data_offsets[0])
            stream.write(b"xyzx")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    for read in (bundle.verify, lambda: bundle.weights("fr"), lambda: recognizer.load("fr")):
        with pytest.raises(BundleError, match=r"b\.asrp: "):
            read()
    assert torch.isfinite(torch.from_numpy(value.floats().copy())).all()  # what was read is a copy


def test_a_disk_that_fails_is_one_line(five: AsrModel, five_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(five_file)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.preadv", fail)
    for read in (bundle.verify, lambda: bundle.mask("fr"), lambda: Bundle.open(five_file)):
        with pytest.raises(BundleError, match=r"five\.asrp: cannot read: Input/output error"):
            read()


def test_a_file_put_in_its_place_changes_nothing(five: AsrModel, tmp_path: Path) -> None:
    assert five.pathways is not None
    path = tmp_path / "b.asrp"
    write_bundle(five, path, "float32")
    bundle = Bundle.open(path)
    write_bundle(five, path, "int8", ["en"])
    assert same(bundle.weights("fr"), five.pathways.extract("fr"))
    path.unlink()
    assert same(bundle.weights("ru"), five.pathways.extract("ru"))


def test_a_full_disk_is_told_and_leaves_what_was_there(
    five: AsrModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(five, tmp_path / "b.asrp", languages=["en"])
    before = (tmp_path / "b.asrp").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match=r"cannot write: No space left on device"):
        write_bundle(five, tmp_path / "b.asrp")
    assert (tmp_path / "b.asrp").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b.asrp"]
