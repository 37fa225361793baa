"""Bad audio, texts, manifests and data folders."""

from __future__ import annotations

from typing import Any

from tests.errors.case import (
    Case,
    changed_rows,
    content,
    cut,
    doubled,
    folder,
    halved,
    header_only,
    manifest,
    no_audio,
    opposite,
    prune,
    removed,
    replaced,
    several,
    shard,
    sound,
    text,
)

DEEP = "[" * 100_000
HEAR = "transcribe sparse {} --language fr"
MAKE = "data manifest made rows.jsonl"
SCORE = "evaluate sparse --data data"


def first(**values: Any) -> Any:
    """The first row with other values; those of ``supervision`` in it."""

    def change(rows: list[dict[str, Any]]) -> list[Any]:
        supervision = values.pop("supervision", {})
        rows[0]["supervisions"][0].update(supervision)
        rows[0].update(values)
        return rows

    return change


def all_texts(text: str) -> Any:
    """All rows with this text."""

    def change(rows: list[dict[str, Any]]) -> list[Any]:
        for row in rows:
            row["supervisions"][0]["text"] = text
        return rows

    return change


AUDIO = [
    Case("a file that is not there", HEAR.format("no.wav"), "no.wav: no such audio file"),
    Case("a folder in place of a file", HEAR.format("data"), "data: a folder, not an audio file"),
    Case("an empty file", HEAR.format("bad.wav"), "bad.wav: empty file, no audio in it", content("bad.wav", b"")),
    Case(
        "a sample rate that is none",
        HEAR.format("bad.wav"),
        "bad.wav: sample rate 1 Hz: it must be from 1,000 to 10,000,000 Hz",
        sound("bad.wav", 1, rate=1),
    ),
    Case("a header and no samples", HEAR.format("bad.wav"), "bad.wav: no audio in it", header_only("bad.wav")),
    Case(
        "a file cut short",
        HEAR.format("bad.flac"),
        "bad.flac: not readable as audio: ...",
        several(sound("bad.flac", 3, value=0.1), halved("bad.flac")),
    ),
    Case(
        "a file that is not audio",
        HEAR.format("bad.wav"),
        "bad.wav: not readable as audio: Error opening 'bad.wav': Format not recognised",
        content("bad.wav", b"this is no sound at all" * 9),
    ),
    Case(
        "a WAV cut short",
        HEAR.format("bad.wav"),
        "bad.wav: truncated audio: ... bytes of the ... that its header says",
        several(sound("bad.wav", 3, value=0.1), halved("bad.wav")),
    ),
    Case(
        "two files joined",
        HEAR.format("bad.flac"),
        "bad.flac: another file begins at its byte ...: they must be apart",
        several(sound("bad.flac", 3, value=0.1), doubled("bad.flac")),
    ),
    Case(
        "float samples in the range of 16-bit integers",
        HEAR.format("bad.wav"),
        "bad.wav: samples reach 8000 where full scale is 1: divide those of 16 bits by 32768",
        sound("bad.wav", 1, value=8000.0),
    ),
    Case(
        "a channel that the file has not",
        HEAR.format("hello.wav") + " --channel 1",
        "hello.wav: no channel 1: it has 1, counted from 0",
    ),
    Case(
        "channels in opposite phase",
        HEAR.format("bad.wav"),
        "bad.wav: its channels cancel each other when they are averaged: choose one (channel)",
        opposite("bad.wav"),
    ),
    Case(
        "a format that libsndfile does not read",
        HEAR.format("bad.m4a"),
        "bad.m4a: MP4 or M4A is not read: convert it, such as by `ffmpeg -i IN OUT.flac`",
        content("bad.m4a", b"\0\0\0\x20ftypM4A " + bytes(99)),
    ),
    Case(
        "raw samples in a file",
        HEAR.format("bad.raw"),
        "bad.raw: no header says its rate and format: convert it, such as by "
        "`ffmpeg -f s16le -ar 16000 -ac 1 -i IN.raw OUT.wav`",
        content("bad.raw", bytes(32_000)),
    ),
    Case(
        "options of raw samples for a file",
        HEAR.format("hello.wav") + " --rate 8000",
        "--rate and --encoding are of raw samples on standard input: files say theirs themselves",
    ),
    Case(
        "values that are no numbers",
        HEAR.format("bad.wav"),
        "bad.wav: audio holds values that are not finite",
        sound("bad.wav", 1, value=float("nan")),
    ),
    Case(
        "10 ms of audio",
        HEAR.format("bad.wav"),
        "bad.wav: only 10 ms of audio: too short to recognise",
        sound("bad.wav", 0.01),
    ),
    Case(
        "44.1 kHz in stereo: resampled, channels averaged",
        HEAR.format("bad.wav"),
        "",
        sound("bad.wav", 1, 44_100, channels=2),
        0,
    ),
    Case(
        "no samples from the microphone's pipe, not streamed",
        HEAR.format("-"),
        "-: standard input is recognised as it comes: add --stream",
    ),
    Case(
        "a recording of ten hours in a manifest",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: bad.flac: longer than 40 s: cut it into utterances",
        several(sound("bad.flac", 36_000, 1000), manifest({"audio_filepath": "bad.flac"})),
    ),
    Case(
        "a duration that the file has not",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: hello.wav: 1.00 s of audio where the row states 7.5 s",
        manifest({"duration": 7.5}),
    ),
    Case(
        "a channel that is not a number",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: 'channel' is not the number of one, counted from 0: 'left'",
        manifest({"channel": "left"}),
    ),
    Case(
        "an offset beyond the end",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: hello.wav: offset 7.5 s is beyond its end at 1 s",
        manifest({"offset": 7.5}),
    ),
    Case(
        "audio of a test utterance cut short",
        SCORE,
        "utterance fr-test-0: data/audio/fr/fr-test-0.flac: not readable as audio: ...",
        cut("data", "audio/fr/fr-test-0.flac"),
    ),
    Case(
        "audio of a test utterance gone",
        SCORE,
        "utterance fr-test-0: data/audio/fr/fr-test-0.flac: no such audio file",
        removed("data", "audio/fr/fr-test-0.flac"),
    ),
    Case(
        "audio of a training utterance cut short: the run goes on without it",
        prune(),
        "utterance fr-train-0: data/audio/fr/fr-train-0.flac: not readable as audio: ...",
        cut("data", "audio/fr/fr-train-0.flac"),
        0,
        "run",
    ),
    Case(
        "audio of all training utterances of a language gone",
        prune(),
        "none of the 10 utterances of fr can be used: utterance fr-train-...: data/audio/fr/fr-train-....flac: no such audio file",
        no_audio("fr", "train"),
        leaves="run",
    ),
    Case(
        "one of several files is not there: the others are recognised",
        "transcribe sparse hello.wav no.wav --language fr",
        "no.wav: no such audio file",
    ),
]

TEXT = [
    Case(
        "no words in a text",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: no words in its text",
        manifest({"text": "(...)"}),
    ),
    Case(
        "a script that the language is not written in",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: its text is not in Latin letters, as 'en' is: 你好",
        manifest({"text": "\u4f60\u597d"}),
    ),
    Case(
        "control characters only",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: no words in its text",
        manifest({"text": "\u0000\u0007"}),
    ),
    Case(
        "no text", MAKE, "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: no 'text'", manifest({"text": None})
    ),
    Case(
        "a text that is a number",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: 'text' is not text",
        manifest({"text": 7}),
    ),
    Case(
        "a text too long for its audio",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: hello.wav: 593 letters in 1.00 s: the text cannot be spoken in it",
        manifest({"text": "hello " * 99}),
    ),
    Case(
        "letters that the model's vocabulary lacks, in most words",
        SCORE,
        "data, test: en: the model's vocabulary cannot write the characters ... in ...% of the words: it is of another language, or the texts are not normalised as it wants them",
        changed_rows("test", first(supervision={"text": "blå øl " * 9})),
    ),
    Case(
        "the same in training",
        prune(),
        "data, train: en: the model's vocabulary cannot write the characters ... in ...% of the words: it is of another language, or the texts are not normalised as it wants them",
        changed_rows("train", all_texts("blå øl")),
    ),
    Case(
        "an empty reference in a data folder",
        SCORE,
        "data/cuts_test.jsonl.gz: line 1: cut 'en-test-0' has no language or no text",
        changed_rows("test", first(supervision={"text": ""})),
    ),
    Case(
        "an empty text in training: the run goes on without it",
        prune(),
        "data/cuts_train.jsonl.gz: line 1: cut 'en-train-0' has no language or no text",
        changed_rows("train", first(supervision={"text": ""})),
        0,
        "run",
    ),
    Case(
        "a text in training that cannot be spoken in its time: likewise",
        prune(),
        "utterance en-train-0: 595 letters in 0.30 s: the text cannot be spoken in it",
        changed_rows("train", first(supervision={"text": "four " * 119})),
        0,
        "run",
    ),
    Case(
        "no lines to speak",
        "data synth made --texts lines --languages fr",
        "lines/fr.txt: no text in it",
        several(folder("lines"), text("lines/fr.txt", "\n")),
    ),
]

MANIFESTS = [
    Case("a manifest that is not there", MAKE, "rows.jsonl: cannot read manifest: No such file or directory"),
    Case("an empty manifest", MAKE, "rows.jsonl: no rows in it", text("rows.jsonl", "")),
    Case(
        "a manifest that is not text",
        MAKE,
        "rows.jsonl: not UTF-8 text",
        content("rows.jsonl", bytes(range(128, 256))),
    ),
    Case(
        "a line that is not JSON",
        MAKE,
        "rows.jsonl: more than 1.0% of its 2 rows are bad: line 1: not a JSON object; in a table, which is named .tsv: not as many columns as its header: mend them, or leave them out (data manifest --max-bad)",
        manifest("{broken", good=True),
    ),
    Case(
        "a table that is not named so",
        "data manifest made rows.csv",
        "rows.csv: more than 1.0% of its 2 rows are bad: line 1: not a JSON object; in a table, which is named .tsv: not as many columns as its header; and 1 more",
        text("rows.csv", "audio_filepath,text,lang\nhello.wav,hello,en\n"),
    ),
    Case(
        "a column missing",
        "data manifest made rows.tsv",
        "rows.tsv: its header has no column text",
        text("rows.tsv", "audio_filepath\tlang\n"),
    ),
    Case(
        "an unknown language",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: unknown language 'klingon': give an ISO 639 code, such as de or yue",
        manifest({"lang": "klingon"}),
    ),
    Case(
        "an unknown split",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: unknown split 'trian': choose among train, dev, test",
        manifest({"split": "trian"}),
    ),
    Case(
        "an offset that is not a number",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: 'offset' is not a number of seconds: 'soon'",
        manifest({"offset": "soon"}),
    ),
    Case(
        "a place that holds something else",
        "data manifest dense rows.jsonl",
        "dense: exists and is not a data folder: choose another place",
        manifest({}),
    ),
    Case(
        "a number of 400 digits",
        MAKE,
        "rows.jsonl: more than 1.0% of its 1 rows are bad: line 1: 'duration' is not a number of seconds: 1000...",
        manifest({"duration": 10**400}),
    ),
    Case(
        "a line nested a hundred thousand deep",
        MAKE,
        "rows.jsonl: more than 1.0% of its 2 rows are bad: line 1: not a JSON object; in a table, which is named .tsv: not as many columns as its header: mend them, or leave them out (data manifest --max-bad)",
        manifest(DEEP, good=True),
    ),
    Case(
        "a field of 200,000 letters in a table",
        "data manifest made rows.tsv",
        "rows.tsv: more than 1.0% of its 1 rows are bad: line 2: hello.wav: 200000 letters in 1.00 s: the text cannot be spoken in it",
        text("rows.tsv", f"audio_filepath\ttext\tlang\nhello.wav\t{'x' * 200_000}\ten\n"),
    ),
]

FOLDERS = [
    Case(
        "a data folder that is not there",
        "evaluate sparse --data no",
        "no: no such data folder: make one with `asr-pathways data`",
    ),
    Case(
        "a manifest in place of the data folder that it makes",
        "evaluate sparse --data rows.jsonl",
        "rows.jsonl: a file, not a data folder: `asr-pathways data manifest DIR rows.jsonl` makes one of rows",
        text("rows.jsonl", "{}"),
    ),
    Case(
        "a folder that is not a data folder",
        "evaluate sparse --data dense",
        "dense: not a data folder: it has no cuts_test.jsonl.gz",
    ),
    Case(
        "a manifest cut short",
        SCORE,
        "data/cuts_test.jsonl.gz: broken after line 0: ...: prepare it again",
        cut("data", "cuts_test.jsonl.gz"),
    ),
    Case(
        "a text of which the cut is only a part",
        SCORE,
        "data/cuts_test.jsonl.gz: line 1: cut 'en-test-0' is only a part of what its text is of",
        changed_rows("test", first(supervision={"duration": 9.0})),
    ),
    Case(
        "a line that is not JSON",
        SCORE,
        "data/cuts_test.jsonl.gz: line 5: not a cut with language, text and audio",
        changed_rows("test", lambda rows: [*rows, "{broken"]),
    ),
    Case(
        "a row that is no utterance",
        SCORE,
        "data/cuts_test.jsonl.gz: line 1: not a cut with language, text and audio",
        changed_rows("test", first(supervisions=[])),
    ),
    Case(
        "two utterances of the same id",
        SCORE,
        "data/cuts_test.jsonl.gz: line 5: the id 'en-test-0' is that of an earlier line: ids must be unique",
        changed_rows("test", lambda rows: [*rows, rows[0]]),
    ),
    Case(
        "the same in training: the run goes on with the first",
        prune(),
        "data/cuts_train.jsonl.gz: line 21: the id 'en-train-0' is that of an earlier line: ids must be unique",
        changed_rows("train", lambda rows: [*rows, rows[0]]),
        0,
        "run",
    ),
    Case(
        "a language that is not in it", SCORE + " --languages en,fr,it", "unknown language 'it': this model knows en fr"
    ),
    Case("an unknown split", SCORE + " --split tset", "--split tset: choose among train, dev, test"),
    Case(
        "no utterances", SCORE, "data: no 'en' in split 'test': it holds nothing", changed_rows("test", lambda rows: [])
    ),
    Case(
        "corpus.json of something else",
        prune(),
        "data/corpus.json: no list of sources in it: not the file of a data folder",
        replaced("data", "corpus.json", b"[]"),
    ),
    Case(
        "a part to merge that is not there",
        "data merge made data no",
        "no: no such data folder: make one with `asr-pathways data`",
    ),
    Case(
        "a folder without the packages",
        "data prompts made --from lines",
        "lines: no sounds in usr/share/asterisk/sounds/en_*: unpack the packages asterisk-core-sounds-en and asterisk-core-sounds-en-g722 there with `dpkg-deb -x`",
        folder("lines"),
    ),
    Case(
        "a folder without the corpus",
        "data mls lines made",
        "lines: no language's folder (mls_german, ...) in it: expected such as ...",
        folder("lines"),
    ),
    Case(
        "a corpus of other languages",
        "data fleurs lines made --languages xx",
        "no 'xx' in FLEURS here: choose among cs, de, en, es, fr, it, nl, pl, pt, ru",
        folder("lines"),
    ),
    Case(
        "a folder without shards",
        "data shar lines made",
        "lines: no shards in it: expected such as ...",
        folder("lines"),
    ),
    Case(
        "a shard without its archive",
        "data shar shards made",
        "shards/dev/cuts.000000.jsonl.gz: there is no recording.000000.tar beside it",
        shard(b""),
    ),
    Case(
        "a shard whose archive is cut short",
        "data shar shards made",
        "shards/dev/cuts.000000.jsonl.gz, or recording.000000.tar beside it, is broken: ...",
        shard(b"", b"half of an archive" * 9),
    ),
    Case(
        "a shard whose manifest is not compressed",
        "data shar shards made",
        "shards/dev/cuts.000000.jsonl.gz, or recording.000000.tar beside it, is broken: Not a gzipped file ...",
        shard(b"{}", b"half of an archive" * 9),
    ),
    Case(
        "prompts in a language without any",
        "data prompts made --languages xx",
        "no prompts in 'xx': choose among en, es, fr, it, ru",
    ),
    Case(
        "a folder without the dialogues",
        "data dialogues made --from lines",
        "lines: no dialogues in 'cs' in usr/share/games/fillets-ng/script: unpack fillets-ng-data there with `dpkg-deb -x`",
        folder("lines"),
    ),
    Case(
        "texts that are not there",
        "data synth made --texts lines",
        "lines: no text files named after a language, such as en.txt",
    ),
    Case(
        "a line nested a hundred thousand deep",
        SCORE,
        "data/cuts_test.jsonl.gz: line 1: not a cut with language, text and audio",
        changed_rows("test", lambda rows: [DEEP, *rows]),
    ),
    Case(
        "an utterance that starts at infinity",
        SCORE,
        "data/cuts_test.jsonl.gz: line 1: not a cut with language, text and audio",
        changed_rows("test", first(start=float("inf"))),
    ),
    Case(
        "corpus.json nested a hundred thousand deep",
        "data merge made data",
        "data/corpus.json: not valid JSON: nested too deeply",
        replaced("data", "corpus.json", DEEP.encode()),
    ),
]
