"""Bad recipes, options, checkpoints, models and bundles."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from pathlib import Path
from typing import IO, Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from asr_pathways.lock import LOCK
from tests.errors.case import (
    Case,
    changed_json,
    changed_rows,
    content,
    cut,
    folder,
    halved,
    own,
    prune,
    removed,
    replaced,
    several,
    text,
)

BAD_RECIPE = "prune dense --data data --method dynamic --sparsity 0.5 --out run --config bad.yaml"
RESUME = prune("--resume", method="imp")


def pathways(options: str) -> Any:
    return text("bad.yaml", f"optimizer: {{steps: 3}}\ndata: {{max_seconds: 2}}\npathways: {{{options}}}\n")


DEEP = "[" * 100_000

RECIPES = [
    Case("a recipe that is not there", BAD_RECIPE, "bad.yaml: cannot read config: No such file or directory"),
    Case(
        "a recipe that is not YAML",
        BAD_RECIPE,
        "bad.yaml: not valid YAML: ...line 1, column 13: optimizer: [ ^",
        text("bad.yaml", "optimizer: ["),
    ),
    Case(
        "an unknown key",
        BAD_RECIPE,
        "bad.yaml: optimiser: unknown key; did you mean optimizer?",
        text("bad.yaml", "optimiser: {steps: 3}"),
    ),
    Case(
        "a value of the wrong type",
        BAD_RECIPE,
        "bad.yaml: optimizer.steps: Input should be a valid integer, unable to parse string as an integer",
        text("bad.yaml", "optimizer: {steps: many}"),
    ),
    Case(
        "a value out of range",
        BAD_RECIPE,
        "bad.yaml: optimizer.peak_lr: Input should be greater than 0",
        text("bad.yaml", "optimizer: {steps: 3, peak_lr: -1}"),
    ),
    Case(
        "an unknown option of pathways",
        BAD_RECIPE,
        "pruning: sparsty: unknown key; did you mean sparsity?",
        pathways("sparsty: 1"),
    ),
    Case(
        "an unknown score",
        BAD_RECIPE,
        "pruning: score: Input should be 'magnitude', 'activation', 'fisher', 'gradient', 'sensitivity', 'platon' or 'movement'",
        pathways("score: size"),
    ),
    Case(
        "blocks that do not exist",
        BAD_RECIPE,
        "pruning: granularity: granularity 'block:0x4' is none of unstructured, block:RxC (block:4x1), n:m (2:4), neurons",
        pathways("granularity: 'block:0x4'"),
    ),
    Case(
        "2:4 at another sparsity than a half",
        BAD_RECIPE.replace("0.5", "0.7"),
        "pruning: granularity 2:4 fixes sparsity to 0.5",
        pathways("granularity: '2:4'"),
    ),
    Case(
        "neurons between layers that the model lacks",
        BAD_RECIPE,
        "pairs: no fc1 of the model has a fc2 beside it: see model.named_modules()",
        pathways("granularity: neurons, pairs: [[fc1, fc2]]"),
    ),
    Case(
        "more layers to leave out than there are",
        prune("--drop-layers encoder:9"),
        "recipe: drop_layers: encoder: 9 of 2 layers: at least one has to stay",
    ),
    Case(
        "layers to leave out, without a number",
        prune("--drop-layers encoder"),
        "--drop-layers encoder: drop_layers.encoder: Input should be a valid integer, unable to parse string as an integer",
    ),
    Case(
        "more stages than steps",
        prune(method="imp"),
        "method imp reaches sparsity 0.5 at step 30, and the run ends at step 3: train longer, or prune in fewer stages",
        text("recipe.yaml", "optimizer: {steps: 3}\npathways: {prune_stages: 9, prune_every: 10}\n"),
    ),
    Case(
        "a learning rate that blows the weights up",
        BAD_RECIPE,
        "step 1: loss is nan on a batch of ... with utterance ...: that is 3 such batches, giving up; nothing was saved; try a lower learning rate",
        text("bad.yaml", "optimizer: {steps: 30, peak_lr: 1.0e+30}\ndata: {max_seconds: 2}\nmax_bad_losses: 2\n"),
        leaves="run",
    ),
    Case(
        "an unknown preset",
        "train --config bad.yaml --data data --out run",
        "bad.yaml: model.preset: Input should be 'micro', 'tiny', 'small' or 'base'",
        text("bad.yaml", "model: {preset: huge}\noptimizer: {steps: 3}"),
    ),
    Case(
        "more word pieces than the texts give",
        "train --config bad.yaml --data data --out run",
        "tokenizer: vocab_size 4000 does not fit the texts: Vocabulary size too high (4000). Please set it to a value <= 29.",
        text("bad.yaml", "model: {vocab_size: 4000}\noptimizer: {steps: 3}"),
    ),
    Case(
        "a matrix with an unknown block",
        "experiment bad.yaml --out out --dry-run",
        "bad.yaml: data: Field required",
        text("bad.yaml", "title: x\nblocks: {}\n"),
    ),
    Case(
        "a recipe nested a hundred thousand deep",
        BAD_RECIPE,
        "bad.yaml: not valid YAML: nested too deeply",
        text("bad.yaml", DEEP),
    ),
    Case(
        "a seed of thirty digits",
        BAD_RECIPE,
        "bad.yaml: seed: Input should be less than 9223372036854775808",
        text("bad.yaml", f"optimizer: {{steps: 3}}\nseed: 1{'0' * 30}"),
    ),
    Case(
        "a billion threads",
        BAD_RECIPE,
        "bad.yaml: threads: Input should be less than or equal to 1024",
        text("bad.yaml", "optimizer: {steps: 3}\nthreads: 1000000000"),
    ),
    Case(
        "a date that is none",
        BAD_RECIPE,
        "bad.yaml: not valid YAML: month must be in 1..12",
        text("bad.yaml", "optimizer: 2024-13-45"),
    ),
    Case(
        "a thousand wrong values",
        BAD_RECIPE,
        "bad.yaml: data.speed_factors.0: Input should be a valid number, unable to parse string as a number; ...; and 990 more",
        text("bad.yaml", f"optimizer: {{steps: 3}}\ndata: {{speed_factors: [{', '.join(['fast'] * 1000)}]}}"),
    ),
]

SHRINK = "shrink dense --data data --out small --languages fr"

OPTIONS = [
    Case(
        "a token that no header can carry",
        "serve sparse --token s\u00e9cret --port 0",
        "--token: letters, digits and marks of ASCII are needed, without spaces",
    ),
    Case(
        "a token for clients that cannot send it",
        "serve sparse --port 0 --wyoming 0 --token secret",
        "--wyoming: its clients send no token: leave --token out, or serve Wyoming by itself",
    ),
    Case(
        "an address of another machine",
        "serve sparse --host 192.0.2.1",
        "192.0.2.1 port 8000: cannot listen there: Cannot assign requested address",
    ),
    Case(
        "refitting that does not fit into memory",
        prune("--config bad.yaml"),
        "recipe: refit_batches: 90000000 batches a language need about ... GB of memory, and ... are free: take fewer, or "
        "smaller ones (data.max_seconds)",
        text("bad.yaml", "{optimizer: {steps: 0}, refit_batches: 90000000}"),
    ),
    Case(
        "a budget that is no time",
        SHRINK + " --budget soon",
        "--budget soon: not a time such as 30m, 1h30m or 0",
    ),
    Case("a target that there is not", SHRINK + " --target price", "--target price: one of accuracy, size, speed"),
    Case(
        "a model to shrink that is pruned",
        SHRINK.replace("dense", "sparse"),
        "sparse: is pruned already: start from the dense model",
    ),
    Case(
        "a language to shrink to that the model does not know",
        SHRINK + ",it",
        "unknown language 'it': this model knows en fr",
    ),
    Case(
        "a part of which layers are left out twice",
        prune("--drop-layers encoder:1,encoder:2"),
        "--drop-layers encoder:1,encoder:2: names a part twice",
    ),
    Case("a sparsity of one", prune(sparsity="1.0"), "pruning: sparsity: Input should be less than 1"),
    Case(
        "an unknown method",
        prune(method="snip"),
        "unknown method 'snip': choose among omp, imp, lth, parp, adaptive, pathways, dynamic",
    ),
    Case(
        "a language that the model does not know",
        prune("--languages en,it"),
        "unknown language 'it': this model knows en fr",
    ),
    Case("the same", "transcribe sparse hello.wav --language it", "unknown language 'it': this model knows en fr"),
    Case(
        "masks from nowhere",
        prune("--init nowhere"),
        "--init nowhere: neither one of omp, lap, lsp nor a pruned model folder",
    ),
    Case(
        "masks from a model that is not pruned",
        prune("--init dense"),
        "--init dense: neither one of omp, lap, lsp nor a pruned model folder",
    ),
    Case(
        "a language that is there already",
        "add-language sparse --language fr --data data --out run --config recipe.yaml",
        "add: 'fr' is there already: the pathways are en, fr",
    ),
    Case(
        "a new language without speech",
        "add-language sparse --language it --data data --out run --config recipe.yaml",
        "data: no 'it' in split 'train': it holds en, fr",
    ),
    Case(
        "a new language for a dense model",
        "add-language dense --language fr --data data --out run --config recipe.yaml",
        "dense: has no pathways: prune it first; a dense model is trained on all languages",
    ),
    Case(
        "auto for a model without an identifier",
        "transcribe sparse hello.wav --language auto",
        "sparse: no language identifier yet: fit one with `asr-pathways identify sparse --data DIR`",
    ),
    Case(
        "a choice of languages where one is named",
        "transcribe sparse hello.wav --language fr --languages fr,en",
        "--languages restricts what --language auto chooses among: leave one of them out",
    ),
    Case(
        "auto for a stream",
        "transcribe sparse hello.wav --language auto --stream",
        "--language auto needs the whole recording: leave --stream out",
    ),
    Case(
        "one language to tell apart",
        "identify sparse --data data --languages en",
        "data: language identification needs 2 of the model's languages in train: en there",
    ),
    Case(
        "a language to tell apart that the model does not know",
        "identify sparse --data data --languages en,it",
        "unknown language 'it': this model knows en fr",
    ),
    Case(
        "a vocabulary of a model that is no Whisper",
        "export sparse made.asrp --vocabulary data",
        "only the vocabulary of a Whisper can be restricted",
    ),
    Case(
        "phrases for greedy search",
        "transcribe sparse hello.wav --language fr --stream --phrases phrases.txt",
        "phrases: greedy search has no phrases: choose a beam of 4 or so",
        text("phrases.txt", "cinq\n"),
    ),
    Case(
        "a line without a phrase",
        "transcribe sparse hello.wav --language fr --stream --beam 4 --phrases phrases.txt",
        "phrases.txt: line 2: no phrase in it",
        text("phrases.txt", "cinq\n\ntrois\n"),
    ),
    Case(
        "a phrase in letters that the model does not write",
        "transcribe sparse hello.wav --language fr --stream --beam 4 --phrases phrases.txt",
        "phrases: '五': the model does not write 五 in fr",
        text("phrases.txt", "五\n"),
    ),
    Case(
        "an unknown format",
        "export sparse made --format tflite",
        "--format tflite: the formats are bundle, hf, onnx, sherpa",
    ),
    Case(
        "a bundle of a dense model",
        "export dense made.asrp",
        "the model has no pathways, and a bundle is of pathways: prune it first",
    ),
    Case("an unknown preset", "bench --preset huge", "--preset huge: the presets are micro, tiny, small, base"),
    Case(
        "an unknown runtime to compare with",
        "bench sparse --data data --against kaldi",
        "--against kaldi: the runtimes are faster-whisper, onnxruntime, torch, whisper.cpp",
    ),
    Case(
        "a benchmark on recordings of a model that streams",
        "bench sparse --data data",
        "sparse: streams: asr-pathways bench without a MODEL times streaming",
    ),
    Case(
        "a model to shrink that is not there: no recording is read before that is said",
        "shrink no.asrp --data rows.jsonl --out small --languages fr",
        "no.asrp: cannot read: No such file or directory",
        text("rows.jsonl", "{}"),
    ),
    Case(
        "a language to shrink to that the data lack",
        SHRINK,
        "data: no 'fr' in split 'train': it holds en",
        changed_rows("train", lambda rows: [row for row in rows if row["supervisions"][0]["language"] == "en"]),
    ),
    Case("no language", prune("--languages ,"), "--languages: name at least one, such as fr"),
    Case(
        "a run where a data folder is",
        prune().replace("--out run", "--out data"),
        "data: is a data folder: choose another folder for the run",
    ),
    Case(
        "a run where the model is that it starts from",
        prune().replace("--out run", "--out dense"),
        "dense: holds a MODEL, which the run would write over: choose another folder",
    ),
    Case(
        "the same with shrink",
        SHRINK.replace("--out small", "--out dense"),
        "dense: holds a MODEL, which the run would write over: choose another folder",
    ),
    Case(
        "a place to write that is not a folder",
        prune().replace("--out run", "--out hello.wav"),
        "hello.wav: cannot write: File exists",
    ),
]


def taken(here: Path) -> None:
    """This process holds the run's folder until the test ends."""
    stream = (here / "run" / LOCK).open("w")
    fcntl.flock(stream, fcntl.LOCK_EX)
    HELD.append(stream)


HELD: list[IO[str]] = []


class Evil:
    """What an attacker would pickle."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def evil() -> bytes:
    return pickle.dumps({"version": Evil()})


def checkpoint(data: bytes | None = None, **values: Any) -> Any:
    """A run folder, interrupted, whose last checkpoint holds something else."""

    def make(here: Path) -> None:
        run = own(here, "interrupted")
        run.rename(here / "run")
        last = here / "run" / "checkpoints" / "last.pt"
        if data is not None:
            last.write_bytes(data)
        else:
            torch.save(torch.load(last, weights_only=True) | values, last)

    return make


def first_text(rows: list[dict[str, Any]]) -> list[Any]:
    rows[0]["supervisions"][0]["text"] = "two"
    return rows


def shifted_weights(here: Path) -> None:
    path = own(here, "dense") / "model.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].numel())
    save_file(weights | {name: weights[name] + 1}, path)


def other_recipe(here: Path) -> None:
    path = own(here, "recipe.yaml")
    path.write_text(path.read_text() + "max_bad_losses: 9\n")


CHECKPOINTS = [
    Case(
        "the only checkpoint cut short",
        RESUME,
        "run/checkpoints/last.pt: not a readable checkpoint: ...",
        several(checkpoint(), halved("run/checkpoints/last.pt")),
        leaves="run",
    ),
    Case(
        "a pickle that would run a command",
        RESUME,
        "run/checkpoints/last.pt: not a readable checkpoint: it holds more than tensors and plain values, and is not loaded",
        checkpoint(evil()),
        leaves="run",
    ),
    Case(
        "a checkpoint of a newer version",
        RESUME,
        "run/checkpoints/last.pt: a checkpoint of another version of asr-pathways",
        checkpoint(version=99),
        leaves="run",
    ),
    Case(
        "a checkpoint of another program",
        RESUME,
        "run/checkpoints/last.pt: a checkpoint of another run: Error(s) in loading state_dict for Transducer: ...",
        checkpoint(model={}),
        leaves="run",
    ),
    Case(
        "resumed with another method",
        prune("--resume", method="adaptive"),
        "run: the run there has another method, sparsity, recipe or languages: cannot resume it",
        checkpoint(),
        leaves="run",
    ),
    Case(
        "resumed on other data",
        RESUME,
        "sampling: the data, the sampling config or the number of batches in a step changed since this checkpoint: resume with those it was made with, or start a new run",
        several(checkpoint(), changed_rows("train", lambda rows: rows[1:])),
        leaves="run",
    ),
    Case(
        "resumed with another text, or other audio of the same length",
        RESUME,
        "run: train: utterance en-train-0 is not what it was: other audio, text, place or tokens than in the checkpoint: resume with what it was made with, or start a new run",
        several(checkpoint(), changed_rows("train", first_text)),
        leaves="run",
    ),
    Case(
        "resumed with another dev text",
        RESUME,
        "run: dev: utterance en-dev-0 is not what it was: other audio, text, place or tokens than in the checkpoint: resume with what it was made with, or start a new run",
        several(checkpoint(), changed_rows("dev", first_text)),
        leaves="run",
    ),
    Case(
        "resumed from another model",
        RESUME,
        "run: the run there began with another model: resume with what it was made with, or start a new run",
        several(checkpoint(), shifted_weights),
        leaves="run",
    ),
    Case(
        "resumed with another recipe: goes on, and says so",
        RESUME,
        "run: goes on with another recipe, from here on: max_bad_losses 9 (it was 5)",
        several(checkpoint(), other_recipe),
        status=0,
        leaves="run",
    ),
    Case(
        "a run that goes on in another process",
        RESUME,
        "run: another run is training there: wait for it, or choose another folder",
        several(checkpoint(), taken),
        leaves="run",
    ),
    Case(
        "a run that is there already",
        prune(method="imp"),
        "run: holds a run already: go on with --resume, or choose another folder",
        checkpoint(),
        leaves="run",
    ),
]


def other_weights(here: Path) -> None:
    path = own(here, "dense") / "model.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].numel())
    save_file(weights | {name: weights[name][:-1].contiguous()}, path)


def diverged_weights(here: Path) -> None:
    path = own(here, "dense") / "model.safetensors"
    weights = load_file(path)
    weights["encoder.front_end.convs.0.weight"].view(-1)[-1] = float("nan")
    save_file(weights, path)


def pickled_hub(here: Path) -> None:
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=8,
        num_feat_extract_layers=1,
        conv_dim=(16,),
        conv_kernel=(10,),
        conv_stride=(5,),
        architectures=["Wav2Vec2ForCTC"],
    )
    config.save_pretrained(here / "hub")
    (here / "hub" / "pytorch_model.bin").write_bytes(evil())


def flipped(here: Path) -> None:
    path = own(here, "sparse.asrp")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


MODELS = [
    Case("a model that is not there", "inspect data/no/model", "data/no/model: no such model folder"),
    Case(
        "a model that is not in a folder that is there",
        "inspect data/no",
        "data/no: no such model folder; if a name on the hub is meant, write data/no@main",
    ),
    Case(
        "a name that may be meant as one of the hub",
        "inspect no",
        "no: no such model folder, and a name on the hub is owner/model, such as openai/whisper-base",
    ),
    Case(
        "a file that is no bundle",
        "inspect hello.wav",
        "hello.wav: no such model folder: a file is a MODEL if it is a bundle, NAME.asrp",
    ),
    Case(
        "a folder of runs",
        "inspect runs",
        "runs: not a model folder: it has no config.json: models in it: runs/dense",
        lambda here: shutil.copytree(here / "dense", here / "runs" / "dense"),
    ),
    Case(
        "a run that has not ended",
        "inspect run",
        "run: not a model folder: it has no config.json: the run there has not ended: go on with --resume",
        several(folder("run"), folder("run/checkpoints")),
    ),
    Case(
        "a model converted for another program",
        "inspect dense",
        "dense/config.json: neither of a model of this package nor of one of transformers",
        replaced("dense", "config.json", b'{"alignment_heads": []}'),
    ),
    Case("a folder that is not a model", "inspect data", "data: not a model folder: it has no config.json"),
    Case(
        "config.json cut short",
        "inspect dense",
        "dense/config.json: not valid JSON: ...",
        cut("dense", "config.json"),
    ),
    Case(
        "a newer version",
        "inspect dense",
        "dense/config.json: format: Input should be 'asr-pathways-model'",
        changed_json("dense", "config.json", format=99),
    ),
    Case(
        "weights cut short",
        "inspect dense",
        "dense/model.safetensors: cannot read weights (truncated or not safetensors): ...",
        cut("dense", "model.safetensors"),
    ),
    Case(
        "weights gone", "inspect dense", "dense/model.safetensors: no such file", removed("dense", "model.safetensors")
    ),
    Case(
        "weights of another model",
        "inspect dense",
        "dense/model.safetensors: weights of another model: encoder.front_end.convs.0.weight is (15, 80, 5), the config asks for (16, 80, 5)",
        other_weights,
    ),
    Case(
        "weights of a training that diverged",
        "inspect dense",
        "dense: encoder.front_end.convs.0.weight has values that are not finite: the training of it diverged",
        diverged_weights,
    ),
    Case(
        "a tokenizer of another model",
        "inspect dense",
        "dense/tokenizer.model: not a SentencePiece model",
        replaced("dense", "tokenizer.model", b"no pieces"),
    ),
    Case(
        "masks cut short",
        "inspect sparse",
        "sparse/pathways/masks.safetensors: truncated or changed since it was saved: copy the whole folder again",
        cut("sparse", "pathways/masks.safetensors"),
    ),
    Case(
        "masks of a newer version",
        "inspect sparse",
        "sparse/pathways/pathways.json: format version 99, but this release reads version 1",
        changed_json("sparse", "pathways/pathways.json", version=99),
    ),
    Case(
        "pathways.json of something else",
        "inspect sparse",
        "sparse/pathways/pathways.json: not a description of pathways",
        replaced("sparse", "pathways/pathways.json", b"[]"),
    ),
    Case(
        "a model that is pruned already",
        prune(model="sparse"),
        "sparse: is pruned already; pruning starts from a dense model",
    ),
    Case(
        "a Hugging Face model with pickled weights only",
        "inspect hub",
        "hub: no model.safetensors there, or none that can be fetched: no other form is read",
        pickled_hub,
    ),
    Case(
        "a Hugging Face model of another kind",
        "inspect hub",
        "hub: BertModel is not supported; these are: ...",
        several(folder("hub"), text("hub/config.json", '{"model_type": "bert", "architectures": ["BertModel"]}')),
    ),
    Case(
        "a hub name without a network",
        "inspect nobody/nothing",
        "nobody/nothing: the hub cannot be reached, and its cache lacks this model: copy the model's folder from where it "
        "can be, and name that",
    ),
    Case(
        "an empty folder",
        "evaluate lines --data data",
        "lines: not a model folder: it has no config.json",
        folder("lines"),
    ),
    Case(
        "a pruned model to start dense training from",
        "train --config bad.yaml --data data --out run --init sparse",
        "sparse: is pruned already; training starts from a dense model (see prune)",
        text("bad.yaml", "optimizer: {steps: 3}"),
    ),
    Case(
        "config.json nested a hundred thousand deep",
        "inspect dense",
        "dense/config.json: not valid JSON: nested too deeply",
        replaced("dense", "config.json", DEEP.encode()),
    ),
    Case(
        "a language whose code is of two lines",
        "inspect dense",
        "dense/config.json: languages.0: 'e\\nn': the code of a language is one word, without slashes",
        changed_json("dense", "config.json", languages=["e\nn"]),
    ),
    Case(
        "a folder whose name looks like markup",
        "inspect t[/x]:bug:",
        "",
        several(folder("t["), lambda here: (here / "t[" / "x]:bug:").symlink_to((here / "sparse").resolve())),
        status=0,
    ),
]

BUNDLES = [
    Case("a bundle that is not there", "inspect no.asrp", "no.asrp: cannot read: No such file or directory"),
    Case(
        "a file that is no bundle",
        "inspect bad.asrp",
        "bad.asrp: not a bundle: it does not begin as a safetensors file does, or is cut short",
        content("bad.asrp", b"PK not at all" * 50),
    ),
    Case(
        "a bundle cut short",
        "transcribe sparse.asrp hello.wav --language fr",
        "sparse.asrp: has ... bytes, not ...: truncated or changed",
        cut("sparse.asrp", ""),
    ),
    Case(
        "a byte changed",
        "transcribe sparse.asrp hello.wav --language fr",
        "sparse.asrp: ...: changed since it was written: its SHA-256 is another",
        flipped,
    ),
    Case(
        "a bundle of format 1",
        "inspect old.asrp",
        "old.asrp: a bundle of format 1, which is not read any more: export the model folder again",
        content("old.asrp", b"PK\x03\x04" + bytes(100)),
    ),
    Case(
        "a bundle written as a folder",
        "export sparse made",
        "made: a bundle is one file: choose a name that ends in .asrp",
    ),
    Case(
        "an export over the model itself",
        "export sparse sparse --format hf --languages fr",
        "sparse: is the MODEL, which the export would write over: choose another name",
    ),
    Case(
        "a bundle over itself, of one language",
        "export sparse.asrp ./sparse.asrp --languages fr",
        "sparse.asrp: is the MODEL, which the export would write over: choose another name",
    ),
    Case(
        "an export into a data folder",
        "export sparse data --format onnx",
        "data: a data folder is there: choose another place for the export",
    ),
    Case(
        "a language that is not in it",
        "transcribe sparse.asrp hello.wav --language it",
        "unknown language 'it': this model knows en fr",
    ),
    Case(
        "languages of which one is not in it",
        "evaluate sparse.asrp --data data --languages fr,it",
        "unknown language 'it': this model knows en fr",
    ),
    Case(
        "a bundle to train on",
        prune(model="sparse.asrp"),
        "sparse.asrp: is pruned already; pruning starts from a dense model",
    ),
    Case(
        "a bundle to add a language to",
        "add-language sparse.asrp --language it --data data --out run --config recipe.yaml",
        "sparse.asrp: a bundle lacks the weights that no pathway keeps, which a new language would train: add it to the model folder",
    ),
    Case(
        "a bundle to fit an identifier for",
        "identify sparse.asrp --data data",
        "sparse.asrp: a bundle is not changed: fit the identifier of the model folder, then export it again",
    ),
]
