from __future__ import annotations

import builtins
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_pathways.data.corpora.espeak import Espeak
from asr_pathways.data.corpora.synth import ACCENTS, VOICES, prepare_synth, utterances
from asr_pathways.data.corpus import load_cuts, summarize
from asr_pathways.errors import PathwaysError

SEED = 3  # for which some of the voices are breathy ones, which draw noise
NUMBERS = [f"number {word} please" for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
TEXTS = {"en": ["hello world", "Hello, world!", *NUMBERS], "ru": ["добрый день", "до свидания"]}


def test_prepare_synth_is_deterministic(tmp_path: Path) -> None:
    assert prepare_synth(tmp_path / "a", TEXTS, seed=SEED) == {"en": 0, "ru": 0}
    time.sleep(1.0 - time.time() % 1.0)  # unseeded noise would follow the clock's seconds
    assert prepare_synth(tmp_path / "b", TEXTS, seed=SEED) == {"en": 0, "ru": 0}
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".flac"]) == 11
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    for cut in load_cuts(tmp_path / "a", "train"):
        samples = cut.load_audio()[0]
        assert 0.3 < cut.duration < 5 and np.sqrt(np.mean(samples**2)) > 0.003
        assert cut.supervisions[0].speaker.split("+")[0] in ACCENTS[cut.supervisions[0].language]


def test_hours_repeat_lines_in_other_voices(tmp_path: Path) -> None:
    prepare_synth(tmp_path / "out", {"en": ["hello world"]}, hours=8 / 3600)
    (row,) = summarize(tmp_path / "out")
    assert 8 <= row.hours * 3600 < 12 and row.utterances > 4
    assert len({cut.supervisions[0].speaker for cut in load_cuts(tmp_path / "out", row.split)}) > 1


def test_held_out_texts_have_held_out_voices() -> None:
    lines = [f"line {number}" for number in range(3000)]
    voices: dict[str, set[str]] = {split: set() for split in VOICES}
    texts: dict[str, set[str]] = {split: set() for split in VOICES}
    for item in utterances(lines, "en", 0, rounds=2):
        voices[item.split].add(item.voice.split("+")[1])
        texts[item.split].add(item.text)
    assert all(voices[split] == set(VOICES[split]) for split in VOICES)
    assert not voices["train"] & (voices["dev"] | voices["test"]) and not voices["dev"] & voices["test"]
    assert not texts["train"] & (texts["dev"] | texts["test"]) and not texts["dev"] & texts["test"]
    assert 20 < len(texts["dev"]) < 120 and 20 < len(texts["test"]) < 120


def test_how_much_is_held_out() -> None:
    lines = [f"line {number}" for number in range(1000)]
    splits = [item.split for item in utterances(lines, "en", 0, held_out=0.25)]
    assert 200 < splits.count("dev") < 300 and 200 < splits.count("test") < 300


def test_every_voice_exists_and_speaks() -> None:
    espeak = Espeak()
    for accents in ACCENTS.values():
        for accent in dict.fromkeys(accents):
            assert len(espeak.say("a", f"{accent}+f1")) > 1000
    for voice in (name for names in VOICES.values() for name in names):
        assert np.abs(espeak.say("one two", f"en-us+{voice}").astype(int)).max() > 500
    with pytest.raises(PathwaysError, match="no voice 'zz'"):
        espeak.say("a", "zz")


def test_any_language_that_espeak_speaks(tmp_path: Path) -> None:
    texts = {"de": ["Guten Morgen"], "zh": ["你好，世界"], "yue": ["早晨"], "tr": ["Günaydın"], "fra": ["Bonjour"]}
    prepare_synth(tmp_path / "out", {**texts, "fr-CA": ["Bonsoir"]})
    cuts = [cut for split in VOICES for cut in load_cuts(tmp_path / "out", split)]
    said = {(cut.supervisions[0].language, cut.supervisions[0].text) for cut in cuts}
    assert said == {
        *(("de", "guten morgen"), ("zh", "你好 世界"), ("yue", "早晨"), ("tr", "günaydın")),
        *(("fr", "bonjour"), ("fr", "bonsoir")),
    }
    with pytest.raises(PathwaysError, match=r"^synth zu: eSpeak NG has no voice 'zu\+"):
        prepare_synth(tmp_path / "none", {"zu": ["Sawubona"]})


def test_bad_input_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PathwaysError, match="unknown language 'xx'"):
        prepare_synth(tmp_path / "out", {"xx": ["a"]})
    with pytest.raises(PathwaysError, match="no text in 'en'"):
        prepare_synth(tmp_path / "out", {"en": [" ... "]})
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "espeakng_loader":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PathwaysError, match="pip install"):
        Espeak()
    assert not list(tmp_path.iterdir())


def test_a_failing_worker_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_pathways.data.corpora.synth.sys.executable", "/bin/false")
    with pytest.raises(PathwaysError, match="synth en: stopped with 1"):
        prepare_synth(tmp_path / "out", {"en": ["hello"]})
    assert not list(tmp_path.iterdir())
