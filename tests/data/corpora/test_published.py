from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr_pathways.bundle.load import load_model
from asr_pathways.data.audio import SAMPLE_RATE, read_audio
from asr_pathways.data.batches import eval_batches
from asr_pathways.data.corpora.commonvoice import COMMON_VOICE
from asr_pathways.data.corpora.fleurs import FLEURS
from asr_pathways.data.corpora.mls import MLS
from asr_pathways.data.corpora.published import Published, prepare_published, with_languages_of
from asr_pathways.data.corpus import SPLITS, WRITTEN, load_cuts, merge, resplit, sources_of, summarize
from asr_pathways.data.mpeg import count_frames
from asr_pathways.errors import PathwaysError
from tests import warm
from tests.data.published import COUNTS, SENTENCES, make_commonvoice, make_fleurs, make_mls

TRAIN = """
model: {preset: micro, vocab_size: SIZE}
optimizer: {steps: 2}
data: {max_seconds: 6, prefetch: 0, spec_augment: null}
evaluation: {every: 2, utterances: 1}
threads: 1
"""
PRUNE = """
optimizer: {steps: 2, warmup_steps: 0}
data: {max_seconds: 6, prefetch: 0, spec_augment: null}
evaluation: {every: 2, utterances: 1}
pathways: {adapt_every: 1}
threads: 1
"""
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lhotse's recipe starts a process for each split, which would import torch first."""
    monkeypatch.setattr("lhotse.recipes.commonvoice.mp_get_context", lambda _: warm.context())


def prepare_mls(out: Path, source: Path, *options: Any, **named: Any) -> object:
    return prepare_published(out, source, MLS, *options, **named)


def prepare_fleurs(out: Path, source: Path, *options: Any) -> object:
    return prepare_published(out, source, FLEURS, *options)


def prepare_commonvoice(out: Path, source: Path, *options: Any) -> object:
    return prepare_published(out, source, COMMON_VOICE, *options)


@pytest.fixture(scope="module")
def mls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mls(tmp_path_factory.mktemp("mls"), {"mls_english": "en", "mls_french_opus": "fr"})


@pytest.fixture(scope="module")
def fleurs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleurs(tmp_path_factory.mktemp("fleurs"), {"en_us": "en", "fr_fr": "fr"})


@pytest.fixture(scope="module")
def commonvoice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_commonvoice(tmp_path_factory.mktemp("cv") / "cv-corpus-17.0-2024-03-15", {"fr": "fr"})


def check(data: Path, source: Path, languages: tuple[str, ...]) -> None:
    """All splits load; cuts refer to files of the download, and as many samples as they say can be read at 16 kHz."""
    assert not (data / "audio").exists()
    for split in SPLITS:
        cuts = load_cuts(data, split, languages)
        assert len(cuts) == COUNTS[split] * len(languages)
        for cut in cuts:
            path = Path(cut.recording.sources[0].source)
            assert path.is_relative_to(source) and path.is_absolute()
            assert len(read_audio(path, cut.start, cut.duration)) == pytest.approx(cut.duration * SAMPLE_RATE, abs=1)
        frames = sum(int(batch.feature_lengths.sum()) for batch in eval_batches(cuts))
        assert frames == pytest.approx(100 * sum(cut.duration for cut in cuts), rel=0.05)


def train_and_prune(run: Run, data: Path, folder: Path, languages: tuple[str, ...], size: int = 24) -> None:
    (folder / "train.yaml").write_text(TRAIN.replace("SIZE", str(size)))
    (folder / "prune.yaml").write_text(PRUNE)
    dense, sparse = folder / "dense", folder / "sparse"
    assert run("train", "--config", folder / "train.yaml", "--data", data, "--out", dense) == 0
    words = ("--data", data, "--config", folder / "prune.yaml", "--method", "dynamic", "--sparsity", 0.5)
    assert run("prune", dense, *words, "--out", sparse) == 0
    pruned = load_model(sparse)
    assert pruned.pathways is not None and tuple(pruned.pathways.languages) == languages


def test_mls_from_download_to_pathways(run: Run, mls: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run("data", "mls", mls, data, "--languages", "en,fr") == 0
    check(data, mls, ("en", "fr"))
    cut = next(iter(load_cuts(data, "test", ["fr"])))
    assert (cut.id, cut.supervisions[0].text) == ("fr-10_202_000000", "un deux")
    assert cut.supervisions[0].speaker == "10"
    assert cut.recording.sources[0].source.endswith("mls_french_opus/test/audio/10/202/10_202_000000.opus")
    assert {source["licence"] for source in sources_of(data)} == {"CC BY 4.0"}
    train_and_prune(run, data, tmp_path, ("en", "fr"))


def test_fleurs_from_download_to_pathways(
    run: Run, fleurs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert run("data", "fleurs", fleurs, data) == 0
    assert "Preparing" not in capsys.readouterr().out
    check(data, fleurs, ("en", "fr"))
    assert {cut.supervisions[0].text for cut in load_cuts(data, "train", ["en"])} == set(SENTENCES["en"])
    train_and_prune(run, data, tmp_path, ("en", "fr"))


def test_common_voice_from_download_to_pathways(
    run: Run, commonvoice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert run("data", "commonvoice", commonvoice, data, "--languages", "fr") == 0
    said = capsys.readouterr().err
    assert "fr: 1 left out: no words" in said and "fr: 1 left out: no audio file" in said
    check(data, commonvoice, ("fr",))
    cut = next(iter(load_cuts(data, "train")))
    assert cut.recording.sampling_rate == 48_000
    assert cut.supervisions[0].text == "un deux"
    merge([data], tmp_path / "merged")
    assert summarize(data) == summarize(tmp_path / "merged")
    check(tmp_path / "merged", commonvoice, ("fr",))
    train_and_prune(run, data, tmp_path, ("fr",), size=19)


def test_merged_and_resplit_audio_stays_where_it_is(fleurs: Path, mls: Path, corpus: Path, tmp_path: Path) -> None:
    prepare_fleurs(tmp_path / "fleurs", fleurs, ["fr"])
    prepare_mls(tmp_path / "mls", mls, ["fr"])
    merge([tmp_path / "fleurs", tmp_path / "mls", corpus], tmp_path / "all")
    resplit(tmp_path / "all", tmp_path / "turned", lambda language, text: "test")
    sources = [Path(cut.recording.sources[0].source) for cut in load_cuts(tmp_path / "turned", "test", ["fr"])]
    assert sum(path.is_relative_to(fleurs) for path in sources) == 16
    assert sum(path.is_relative_to(mls) for path in sources) == 16
    assert sum(path.is_relative_to(tmp_path / "turned") for path in sources) == 18
    written = [
        (cut.supervisions[0].custom or {}).get(WRITTEN) for cut in load_cuts(tmp_path / "turned", "test", ["fr"])
    ]
    assert sum(text is not None and text.endswith(".") for text in written) == 16  # of FLEURS
    assert all(path.is_file() for path in sources)


def test_a_language_is_one_that_the_corpus_has(mls: Path, tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match="no 'ru' in Multilingual LibriSpeech here: choose among de, en, es, fr"):
        prepare_mls(tmp_path / "out", mls, ["en", "ru"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(PathwaysError, match="no 'xx' in FLEURS here: choose among cs, de, en"):
        prepare_fleurs(tmp_path / "out", mls, ["xx"])


@pytest.mark.parametrize(
    ("corpus", "names", "found"),
    [
        (COMMON_VOICE, "de notes sv-SE zh-CN zh-TW", {"de": "de", "sv": "sv-SE", "zh-CN": "zh-CN", "zh-TW": "zh-TW"}),
        (FLEURS, "de_de nb_no cmn_hans_cn yue_hant_hk", "de de_de no nb_no zh cmn_hans_cn yue yue_hant_hk"),
    ],
)
def test_which_folder_is_which_language(corpus: Published, names: str, found: Any, tmp_path: Path) -> None:
    for name in names.split():
        table = tmp_path / corpus.transcripts.format(folder=name, split="train")
        table.parent.mkdir(parents=True)
        table.touch()
    if isinstance(found, str):
        found = dict(zip(found.split()[::2], found.split()[1::2], strict=True))
    known = with_languages_of(tmp_path, corpus, None).folders
    assert {code: folder for code, folder in known.items() if folder in names.split()} == found
    assert with_languages_of(tmp_path, corpus, ["sw", "xx"]).folders == {**known, "sw": "sw"}


@pytest.mark.parametrize(
    ("make", "prepare", "folder", "asked", "code"),
    [
        (make_commonvoice, prepare_commonvoice, "sv-SE", ["sv-SE"], "sv"),
        (make_fleurs, prepare_fleurs, "cmn_hans_cn", ["zho"], "zh"),
        (make_mls, prepare_mls, "mls_polish", ["pol"], "pl"),
    ],
)
def test_languages_may_be_named_in_any_form(
    make: Any, prepare: Any, folder: str, asked: list[str], code: str, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", {folder: "fr"})
    prepare(tmp_path / "out", source, asked)
    assert {cut.supervisions[0].language for cut in load_cuts(tmp_path / "out", "test")} == {code}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (prepare_mls, r"openslr\.org/94"),
        (prepare_fleurs, r"huggingface\.co/datasets/google/fleurs"),
        (prepare_commonvoice, r"commonvoice\.mozilla\.org"),
    ],
)
def test_what_is_missing_is_named_and_where_to_get_it(prepare: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match=rf"none: no such folder: expected such as .*CC.*{message}") as caught:
        prepare(tmp_path / "out", tmp_path / "none")
    assert "\n" not in str(caught.value)
    with pytest.raises(PathwaysError, match=rf"no language's folder .*{message}"):
        prepare(tmp_path / "out", tmp_path)
    with pytest.raises(PathwaysError, match=rf"no folder .* in it: .*{message}"):
        prepare(tmp_path / "out", tmp_path, ["fr"])
    assert not (tmp_path / "out").exists()


def test_incomplete_downloads(tmp_path: Path) -> None:
    source = make_mls(tmp_path / "mls", {"mls_french": "fr"})
    sounds = sorted((source / "mls_french").rglob("*.flac"))
    sounds[0].unlink()
    assert prepare_mls(tmp_path / "out", source) == {"fr": {"no audio file": 1}}
    sounds[1].write_bytes(b"no audio")
    with pytest.raises(PathwaysError, match=r"mls_french: not readable as Multilingual LibriSpeech: .*flac"):
        prepare_mls(tmp_path / "out", source)
    (source / "mls_french" / "dev" / "transcripts.txt").unlink()
    with pytest.raises(PathwaysError, match=r"no mls_french/dev/transcripts\.txt in it: expected such as"):
        prepare_mls(tmp_path / "out", source)


def test_broken_tables(tmp_path: Path) -> None:
    source = make_fleurs(tmp_path / "fleurs", {"fr_fr": "fr"})
    (source / "metadata/fr_fr/dev.tsv").write_text("1\ta.wav\ttext\n")
    with pytest.raises(
        PathwaysError, match=r"fr_fr: not readable as FLEURS: ValueError: dev\.tsv: line 1: 3 columns where 7 should be"
    ):
        prepare_fleurs(tmp_path / "out", source)
    source = make_commonvoice(tmp_path / "cv", {"fr": "fr"})
    (source / "fr/dev.tsv").write_text("client_id\tpath\tage\tgender\n")
    with pytest.raises(PathwaysError, match=r"dev\.tsv: its header has no column sentence"):
        prepare_commonvoice(tmp_path / "out", source)
    source = make_mls(tmp_path / "mls", {"mls_french": "fr"})
    (source / "mls_french/dev/transcripts.txt").write_text("one\n")
    with pytest.raises(PathwaysError, match=r"transcripts\.txt: line 1: not SPEAKER_BOOK_SEGMENT"):
        prepare_mls(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def texts_of(data: Path) -> dict[str, str]:
    return {cut.id[-8:]: cut.supervisions[0].text for split in SPLITS for cut in load_cuts(data, split)}


def test_sentences_with_tabs_and_newlines_are_whole(tmp_path: Path) -> None:
    source = make_commonvoice(tmp_path / "cv", {"fr": "fr"})
    prepare_commonvoice(tmp_path / "plain", source)
    plain = texts_of(tmp_path / "plain")
    assert plain["10000000"] == "un deux" and plain["10000001"] == "trois"
    first = next(cut for cut in load_cuts(tmp_path / "plain", "dev") if cut.id.endswith("10000000"))
    assert first.supervisions[0].custom == {WRITTEN: '"Un deux" !'}
    for name in ("dev", "test"):
        table = source / f"fr/{name}.tsv"
        text = table.read_text(encoding="utf-8").replace("Un deux", "Un\t\tdeux\n\ntrois\u2028quatre\x0bcinq\tsix", 1)
        table.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    prepare_commonvoice(tmp_path / "odd", source)
    odd = texts_of(tmp_path / "odd")
    assert odd["10000000"] == odd["20000000"] == "un deux trois quatre cinq six"
    assert {name: text for name, text in odd.items() if "0000000" not in name} == {
        name: text for name, text in plain.items() if "0000000" not in name
    }


@pytest.mark.parametrize("fields", [1, 3, 6])
def test_a_row_with_too_few_columns_is_named(tmp_path: Path, fields: int) -> None:
    source = make_commonvoice(tmp_path / "cv", {"fr": "fr"})
    table = source / "fr/train.tsv"
    lines = table.read_text(encoding="utf-8").split("\n")
    lines[4] = "\t".join(lines[4].split("\t")[:fields])
    table.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(PathwaysError, match=rf"train\.tsv: line 5: {fields} columns where its header has 13"):
        prepare_commonvoice(tmp_path / "out", source)


def test_releases_with_few_columns_are_read(tmp_path: Path) -> None:
    source = make_commonvoice(tmp_path / "cv", {"fr": "fr"})
    prepare_commonvoice(tmp_path / "new", source)
    for split in SPLITS:
        table = source / f"fr/{split}.tsv"
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
        table.write_text("".join(f"{row[3]}\t{row[1].removesuffix('.mp3')}\n" for row in rows), encoding="utf-8")
    prepare_commonvoice(tmp_path / "old", source)
    assert texts_of(tmp_path / "old") == texts_of(tmp_path / "new")


@pytest.mark.parametrize(
    ("make", "prepare", "name", "suffix"),
    [
        (make_commonvoice, prepare_commonvoice, "fr", "mp3"),
        (make_fleurs, prepare_fleurs, "fr_fr", "wav"),
        (make_mls, prepare_mls, "mls_french", "flac"),
        (make_mls, prepare_mls, "mls_french_opus", "opus"),
    ],
)
def test_empty_and_short_files_cost_an_utterance_each(
    make: Any, prepare: Any, name: str, suffix: str, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", {name: "fr"})
    usual = prepare(tmp_path / "out", source)["fr"]
    first, second, *_ = sorted(source.rglob(f"*.{suffix}"))
    first.write_bytes(b"")
    assert prepare(tmp_path / "out", source)["fr"] == usual | {"empty audio file": 1}
    if suffix != "flac":  # a FLAC file does not say where it ends
        path = second if suffix != "opus" else sorted(source.rglob("*.opus"))[-1]
        path.write_bytes(path.read_bytes()[:-700])
        assert prepare(tmp_path / "out", source)["fr"] == usual | {"empty audio file": 1, "audio cut short": 1}


def test_clips_without_a_header_are_as_long_as_they_are(tmp_path: Path) -> None:
    source = make_commonvoice(tmp_path / "cv", {"fr": "fr"})
    prepare_commonvoice(tmp_path / "whole", source)
    for path in source.rglob("*.mp3"):
        data = path.read_bytes()
        stream = count_frames(data)
        assert stream is not None
        path.write_bytes(data[stream.start :])
    prepare_commonvoice(tmp_path / "cut", source)
    for split in SPLITS:
        cuts = list(load_cuts(tmp_path / "cut", split))
        for one, other in zip(cuts, load_cuts(tmp_path / "whole", split), strict=True):
            assert other.duration <= one.duration < other.duration + 0.1
        assert sum(len(batch) for batch in eval_batches(cuts)) == len(cuts)


def test_long_or_dense_utterances_stay_out_of_train_only(tmp_path: Path) -> None:
    source = make_mls(tmp_path / "mls", {"mls_french": "fr"})
    for split in SPLITS:
        path = source / "mls_french" / split / "transcripts.txt"
        path.write_text(path.read_text().replace("un deux\n", "un " * 100 + "\n", 1))
    assert prepare_mls(tmp_path / "out", source, jobs=2) == {"fr": {"text too long for the sound": 1}}
    assert [len(load_cuts(tmp_path / "out", split)) for split in SPLITS] == [11, 2, 2]
