from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch, eval_batches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.models.transducer import Transducer
from asr_pathways.pruning import METHODS, PathwayConfig, Pathways
from asr_pathways.pruning.refit.refitting import Refitting
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.prune import options_for, prune
from asr_pathways.training.refitting import Solved
from tests.models.hub.tiny import MAKERS
from tests.training.helpers import on_loss, recognizer_for, same


def recipe(steps: int, **options: Any) -> PruneRecipe:
    values: dict[str, Any] = {
        "optimizer": {"steps": steps, "peak_lr": 5e-3},
        "data": {"max_seconds": 1.5, "prefetch": 0},
        "evaluation": {"every": 4, "utterances": 1},
        "checkpoint_every": 4,
        "calibration_batches": 1,
        "init_steps": 6,
    }
    return PruneRecipe.model_validate({**values, **options})


def run(model: Path, data: Path, out: Path, method: str = "dynamic", steps: int = 4, **options: Any) -> None:
    given = {name: options.pop(name) for name in ("languages", "init", "resume", "sparsity") if name in options}
    prune(model, data, out, **{"method": method, "sparsity": 0.7, "recipe": recipe(steps, **options), **given})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_its_sparsity(tmp_path: Path, dense_model: Path, speech: Path, method: str) -> None:
    run(dense_model, speech, tmp_path, method, steps=7)
    pruned = load_model(tmp_path)
    assert pruned.pathways is not None
    assert pruned.pathways.at_target
    assert pruned.pathways.languages == pruned.languages == ("en", "fr")
    assert pruned.card.attribution == ("Sines by nobody",)
    summary = pruned.pathways.summary()
    assert all(found == pytest.approx(0.7, abs=0.005) for found in summary.sparsity.values())
    history = json.loads((tmp_path / "history.json").read_text())
    assert history[-1]["sparsity"] == 0.7
    assert [entry["step"] for entry in history] == [4, 7]
    dense = load_model(dense_model)
    assert dense.pathways is None
    assert not any("joiner" in name or "embedding" in name for name in pruned.pathways.names)
    if METHODS[method].per_language and method == "dynamic":
        assert pruned.pathways.overlap()[("en", "fr")] < 1
    if not METHODS[method].per_language:
        assert pruned.pathways.overlap()[("en", "fr")] == 1


def test_a_pruned_model_is_shown_beside_its_dense_one(
    tmp_path: Path, dense_model: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(dense_model, speech, tmp_path, steps=1)
    printed = capsys.readouterr().err
    assert "Pruning (dynamic): about" in printed and "1 steps of" in printed and "nan" not in printed
    quality = load_model(tmp_path).card.quality
    assert re.match(r"WER on dev: [0-9.]+%, dense [0-9.]+% \(.+ points\); not usable: more than half", quality)
    assert all(line in printed for line in quality.split("; "))


def test_one_language_makes_a_sparse_monolingual_model(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    run(dense_model, speech, tmp_path, "adaptive", steps=7, languages=["fr"])
    pruned = load_model(tmp_path)
    assert pruned.languages == ("fr",)
    assert pruned.check_languages(None) == ("fr",)
    history = json.loads((tmp_path / "history.json").read_text())
    assert set(history[-1]["wer"]) == {"fr"}


def test_frozen_weights_outside_the_masks_do_not_move(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    run(dense_model, speech, tmp_path, "pathways", steps=5)
    dense, pruned = load_model(dense_model).model.state_dict(), load_model(tmp_path)
    assert pruned.pathways is not None
    masks = [pruned.pathways.mask(language) for language in ("en", "fr")]
    for name in pruned.pathways.names:
        moved = dense[name] != pruned.model.state_dict()[name]
        assert not (moved & ~(masks[0][name] | masks[1][name])).any()
    assert any(not torch.equal(dense[name], pruned.model.state_dict()[name]) for name in pruned.pathways.names)


def test_one_shot_masks_follow_what_each_language_excites(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    run(dense_model, speech, tmp_path, "dynamic", steps=0)
    pruned = load_model(tmp_path)
    assert pruned.pathways is not None
    assert pruned.pathways.overlap()[("en", "fr")] < 1
    assert same(pruned.model.state_dict(), load_model(dense_model).model.state_dict())
    run(dense_model, speech, tmp_path / "again", "dynamic", steps=0)
    again = load_model(tmp_path / "again").pathways
    assert again is not None
    assert same(again.mask("fr"), pruned.pathways.mask("fr"))


def test_kept_weights_are_refitted_before_training(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    run(dense_model, speech, tmp_path / "cut", steps=0)
    run(dense_model, speech, tmp_path / "refitted", steps=0, refit_batches=2)
    run(dense_model, speech, tmp_path / "lap", steps=0, refit_batches=2, init="lap")
    dense = load_model(dense_model)
    cuts = load_cuts(speech, "train", ["en", "fr"])
    batches = list(eval_batches(cuts, dense.tokenizer, frontend=dense.model.frontend))
    distances = []
    for name in ("cut", "refitted"):
        pruned = load_model(tmp_path / name)
        assert pruned.pathways is not None and pruned.pathways.at_target
        distance = 0.0
        for batch in batches:
            with pruned.use(batch.language), torch.no_grad():
                ours, theirs = (one.model.encodings(*_speech(batch))[0] for one in (pruned, dense))
                distance += float((ours - theirs).square().mean())
        distances.append(distance)
    assert distances[1] < 0.7 * distances[0]
    with pytest.raises(PathwaysError, match="refit_batches: method imp does not start with final masks"):
        run(dense_model, speech, tmp_path / "imp", "imp", steps=7, refit_batches=2)
    assert not (tmp_path / "imp" / "model.safetensors").exists()


def test_refitting_goes_on_where_it_was_stopped(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"steps": 0, "refit_batches": 2, "refit_steps": 3}
    run(dense_model, speech, tmp_path / "straight", **options)
    assert re.search(r"Refitting on 2 batches a language: about .* and .* more memory\n", capsys.readouterr().err)

    def interrupted(groups: list[object], label: str) -> Iterator[object]:
        yield from groups[:5]
        raise KeyboardInterrupt

    solved = tmp_path / "stopped" / "checkpoints" / "refitted"
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="stopped; go on with --resume"):
        patched.setattr("asr_pathways.training.refitting.track", interrupted)
        run(dense_model, speech, tmp_path / "stopped", **options)
    done = len(list(solved.glob("*.safetensors")))
    second = sorted(solved.glob("*.safetensors"))[1]
    second.write_bytes(second.read_bytes()[:-9])  # damaged: its layers are solved for again
    with monkeypatch.context() as patched:  # which on another number of threads might choose others
        patched.setattr("asr_pathways.training.prune.choose_masks", lambda *_, **__: pytest.fail("chosen again"))
        run(dense_model, speech, tmp_path / "stopped", resume=True, **options)
    assert re.search(rf"more memory \({done - 1} of \d+ parts are done\)\n", capsys.readouterr().err)
    assert not solved.exists()
    straight, resumed = (load_model(tmp_path / name).model.state_dict() for name in ("straight", "stopped"))
    assert same(straight, resumed)


def test_what_was_refitted_outlives_a_crash_before_the_first_checkpoint(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object) -> None:
        raise MemoryError

    options: dict[str, Any] = {"steps": 3, "refit_batches": 2, "refit_steps": 2}
    run(dense_model, speech, tmp_path / "straight", **options)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("asr_pathways.training.loop.TrainingLoop._step", crash)
        run(dense_model, speech, tmp_path / "crashed", **options)
    with monkeypatch.context() as patched:
        patched.setattr(Refitting, "_solve", lambda *_, **__: pytest.fail("solved for again"))
        patched.setattr(Refitting, "_reconstruct", lambda *_, **__: pytest.fail("brought nearer again"))
        run(dense_model, speech, tmp_path / "crashed", resume=True, **options)
    assert not (tmp_path / "crashed" / "checkpoints" / "refitted").exists()
    straight, crashed = (load_model(tmp_path / name).model.state_dict() for name in ("straight", "crashed"))
    assert same(straight, crashed)


def test_cost_is_measured_while_there_is_no_teacher_yet(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which it counts one: memory that is in use already would count twice."""
    calls = []
    monkeypatch.setattr("asr_pathways.training.prune.report_cost", lambda *_: calls.append("cost"))
    monkeypatch.setattr("asr_pathways.training.prune._dense_wer", lambda *_: calls.append("score"))
    monkeypatch.setattr("asr_pathways.training.prune.Distillation", lambda *_: (calls.append("teacher"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run(dense_model, speech, tmp_path, distillation=1.0)
    assert calls == ["cost", "score", "teacher"]


def test_more_than_half_of_the_weights_go_in_two_stages(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half go first, layers are refitted, the rest goes among what is left; an interruption in either loses nothing."""
    pathways = {"score": "fisher", "include": ["encoder.layers.*.feed_forward*", "encoder.front_end.projection"]}
    options: dict[str, Any] = {"steps": 0, "refit_batches": 2, "refit_steps": 2, "pathways": pathways}
    kept: list[dict[str, Tensor]] = []
    original = Refitting.run

    def spied(self: Refitting[Any], *args: Any, **others: Any) -> None:
        kept.append(self._pathways.mask("fr"))
        original(self, *args, **others)
        assert others["steps"] == (0 if len(kept) == 1 else 2)

    with monkeypatch.context() as patched:
        patched.setattr(Refitting, "run", spied)
        run(dense_model, speech, tmp_path / "straight", sparsity=0.7, **options)
    wide, narrow = kept
    assert all(int(mask.sum()) == mask.numel() - round(0.5 * mask.numel()) for mask in wide.values())
    assert all(int(mask.sum()) == mask.numel() - round(0.7 * mask.numel()) for mask in narrow.values())
    assert not any((narrow[name] & ~mask).any() for name, mask in wide.items())
    assert "Refitting at 50% first on 2 batches" in capsys.readouterr().err
    straight = load_model(tmp_path / "straight")
    assert straight.pathways is not None and straight.pathways.at_target and same(straight.pathways.mask("fr"), narrow)

    def interrupted(groups: list[object], label: str) -> Iterator[object]:
        yield from groups[:2]
        raise KeyboardInterrupt

    calls: list[int] = []

    def second(groups: list[object], label: str) -> Iterator[object]:
        calls.append(len(groups))
        return iter(groups) if len(calls) == 1 else interrupted(groups, label)

    for stop in (interrupted, second):
        with monkeypatch.context() as patched, pytest.raises(Interrupted):
            patched.setattr("asr_pathways.training.refitting.track", stop)
            run(dense_model, speech, tmp_path / "stopped", sparsity=0.7, resume=True, **options)
    run(dense_model, speech, tmp_path / "stopped", sparsity=0.7, resume=True, **options)
    said = capsys.readouterr().err
    assert re.search(r"at 50% first .* \(2 of \d+ parts are done\)", said)
    assert re.search(r"Refitting on 2 .* \([1-9] of \d+ parts are done\)", said)
    stopped = load_model(tmp_path / "stopped")
    assert stopped.pathways is not None and same(stopped.pathways.mask("fr"), narrow)
    assert same(straight.model.state_dict(), stopped.model.state_dict())
    run(dense_model, speech, tmp_path / "half", sparsity=0.5, **options)
    assert "% first" not in capsys.readouterr().err


def test_what_was_solved_for_other_masks_is_not_taken(tmp_path: Path) -> None:
    Solved(tmp_path, "one")["a.weight"] = {"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)}
    assert torch.equal(Solved(tmp_path, "one")["a.weight"]["a.weight"], torch.ones(2, 2))
    assert len(Solved(tmp_path, "other")) == 0
    Solved(tmp_path, "one", writes=False)["c.weight"] = {"c.weight": torch.ones(2, 2)}
    assert len(Solved(tmp_path, "one")) == 1


def test_refitting_that_does_not_fit_is_refused_first(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_pathways.training.refitting.free_memory", lambda device: 2**19)
    with pytest.raises(
        PathwaysError, match=r"refit_batches: 900000 batches a language need about .* GB of memory, and"
    ):
        run(dense_model, speech, tmp_path, steps=0, refit_batches=900_000)
    assert not (tmp_path / "config.json").exists()


def _speech(batch: Batch) -> tuple[Tensor, Tensor, str]:
    return batch.features, batch.feature_lengths, batch.language


def test_what_languages_have_of_their_own_is_never_masked(tmp_path: Path) -> None:
    """A recipe that names weights to leave out must not let masks cover those that are replaced while MMS runs."""
    asr = load_model(MAKERS["mms"](tmp_path / "mms"))
    exclude = options_for(asr.model, {"exclude": ("wav2vec2.encoder.layers.0",)})["exclude"]
    pathways = Pathways.attach(asr.model.network, PathwayConfig(sparsity=0.5, exclude=exclude), ["en"])
    replaced = asr.model.network._get_adapters()  # type: ignore[operator]
    assert replaced and not replaced.keys() & set(pathways.names)
    assert not any("encoder.layers.0." in name for name in pathways.names)


@pytest.mark.parametrize("init", ["lap", "lsp"])
def test_masks_from_pruning_runs_of_their_own(tmp_path: Path, dense_model: Path, speech: Path, init: str) -> None:
    run(dense_model, speech, tmp_path, "pathways", steps=1, init=init)
    pruned = load_model(tmp_path)
    assert pruned.pathways is not None
    folders = {"lap": ["en-fr"], "lsp": ["en", "fr"]}[init]
    assert sorted(path.name for path in (tmp_path / "init").iterdir()) == folders
    for language in ("en", "fr"):
        own = load_model(tmp_path / "init" / ("en-fr" if init == "lap" else language)).pathways
        assert own is not None
        assert own.steps == 6
        assert same(own.mask(language), pruned.pathways.mask(language))
    assert (pruned.pathways.overlap()[("en", "fr")] == 1) == (init == "lap")


def test_runs_for_first_masks_share_their_structure(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    pathways = {"granularity": "block:4x1", "exclude": ["joiner", "ctc_output", "*.depthwise", "predictor"]}
    run(dense_model, speech, tmp_path, "pathways", steps=0, init="lsp", pathways={**pathways, "revived": "reset"})
    pruned = load_model(tmp_path).pathways
    assert pruned is not None
    assert not any(name.startswith("predictor") for name in pruned.names)
    for mask in pruned.mask("en").values():
        blocks = mask.flatten(1)[: len(mask) // 4 * 4].unflatten(0, (-1, 4))
        assert (blocks.all(dim=1) == blocks.any(dim=1)).all()


def test_masks_from_a_pruned_model(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    run(dense_model, speech, tmp_path / "first", "dynamic", steps=0)
    run(dense_model, speech, tmp_path / "second", "pathways", steps=1, init=str(tmp_path / "first"))
    first, second = (load_model(tmp_path / name).pathways for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert all(same(first.mask(language), second.mask(language)) for language in ("en", "fr"))
    with pytest.raises(PathwaysError, match=r"--init .*first: its pathway of en has sparsity 0.70, not 0.5 as asked"):
        run(dense_model, speech, tmp_path / "third", "pathways", init=str(tmp_path / "first"), sparsity=0.5)
    run(dense_model, speech, tmp_path / "french", "dynamic", steps=0, languages=["fr"])
    with pytest.raises(PathwaysError, match=r"--init .*french: has no pathway for en"):
        run(dense_model, speech, tmp_path / "third", "pathways", init=str(tmp_path / "french"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic': choose among omp, imp, lth, parp, adaptive, pathways, dynamic"),
        ({"languages": ["en", "de"]}, "unknown language 'de': this model knows en fr"),
        ({"sparsity": 1.0}, "pruning: sparsity: Input should be less than 1"),
        ({"sparsity": -0.1}, "sparsity: Input should be greater than or equal to 0"),
        ({"method": "imp", "sparsity": 1.5}, "sparsity: Input should be less than 1"),
        ({"sparsity": float("nan")}, "sparsity: Input should be"),
        ({"pathways": {"sparsity": 0.5}}, "pathways.sparsity: sparsity is an option beside the recipe"),
        ({"pathways": {"adapt_evry": 5}}, "pruning: adapt_evry: unknown key"),
        ({"pathways": {"include": ["decoder.*"]}}, "decoder"),
        ({"init": "nowhere"}, "--init nowhere: neither one of omp, lap, lsp nor a pruned model folder"),
        ({"method": "imp", "steps": 8, "init": "lsp"}, "--init lsp starts from masks of full sparsity, and method imp"),
        ({"method": "omp", "init": "lsp"}, "--init lsp makes a mask for each language, and method omp has one"),
        ({"method": "imp", "steps": 4}, r"imp reaches sparsity 0.7 at step 5, and the run ends at step 4"),
        ({"init": "lap", "drop_layers": {"encoder": 1}}, "--init lap: its masks are of all layers"),
        ({"drop_layers": {"decoder": 1}}, "drop_layers: decoder: of this model, encoder may lose layers"),
        ({"drop_layers": {"encoder": 2}}, "drop_layers: encoder: 2 of 2 layers: at least one has to stay"),
        ({"drop_layers": {"encoder": 1}, "distillation": 1.0}, "distillation: compares layer by layer"),
        ({"init": "lap", "init_steps": 0}, r"imp reaches sparsity 0.7 at step 5, and the run ends at step 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, dense_model: Path, speech: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PathwaysError, match=message) as caught:
        run(dense_model, speech, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sparsity": 70.0}, "sparsity: Input should be less than 1"), ({"method": "magic"}, "unknown method 'magic'")],
)
def test_what_makes_no_sense_for_any_data_is_refused_before_they_are_read(
    tmp_path: Path, dense_model: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PathwaysError, match=message):
        run(dense_model, tmp_path / "no data", tmp_path / "run", **options)


def test_masks_from_nowhere_are_refused_before_the_dense_model_is_scored(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_pathways.training.prune.report_cost", lambda *_: pytest.fail("timed"))
    with pytest.raises(PathwaysError, match="--init nowhere: neither one of omp, lap, lsp nor"):
        prune(dense_model, speech, tmp_path / "run", method="dynamic", sparsity=0.5, init="nowhere")


def test_a_pruned_model_is_not_pruned_again(tmp_path: Path, speech: Path, tokenizer: Tokenizer) -> None:
    save_model(tmp_path / "pruned", recognizer_for(tokenizer, "dynamic", 1))
    with pytest.raises(PathwaysError, match="pruned: is pruned already; pruning starts from a dense model"):
        run(tmp_path / "pruned", speech, tmp_path / "run")


def test_a_run_is_not_overwritten(tmp_path: Path, dense_model: Path, speech: Path) -> None:
    run(dense_model, speech, tmp_path, steps=1)
    with pytest.raises(PathwaysError, match="holds a run already: go on with --resume"):
        run(dense_model, speech, tmp_path, steps=1)
    for other in ({"method": "pathways"}, {"sparsity": 0.5}, {"languages": ["fr"]}):
        with pytest.raises(PathwaysError, match="another method, sparsity, recipe or languages: cannot resume it"):
            run(dense_model, speech, tmp_path, **{"steps": 1, "resume": True, **other})


def interrupt(model: Transducer, loss: Tensor) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("call", [7, 13])
def test_an_interrupted_run_of_first_masks_is_finished_when_resumed(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Two of six steps of French are done, or two of three of the run proper, when the interrupt comes."""
    options: dict[str, Any] = {"method": "pathways", "steps": 3, "init": "lsp"}
    run(dense_model, speech, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(call, interrupt))
        with pytest.raises(PathwaysError, match="interrupted at step "):
            run(dense_model, speech, tmp_path / "parts", **options)
    run(dense_model, speech, tmp_path / "parts", resume=True, **options)
    whole, parts = load_model(tmp_path / "whole"), load_model(tmp_path / "parts")
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert whole.pathways is not None
    assert parts.pathways is not None
    assert all(same(whole.pathways.mask(language), parts.pathways.mask(language)) for language in ("en", "fr"))


@pytest.mark.parametrize("method", ["lth", "dynamic"])
def test_a_run_that_died_before_its_first_checkpoint_starts_again(
    tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def crash(*_: object) -> None:
        raise MemoryError

    run(dense_model, speech, tmp_path / "whole", method, steps=7)
    calls = 2 if method == "dynamic" else 0  # of the calibration
    with monkeypatch.context() as patch:
        patch.setattr(Transducer, "loss", on_loss(calls + 2, crash))
        with pytest.raises(MemoryError):
            run(dense_model, speech, tmp_path / "parts", method, steps=7)
    run(dense_model, speech, tmp_path / "parts", method, steps=7, resume=True)
    whole, parts = load_model(tmp_path / "whole"), load_model(tmp_path / "parts")
    assert same(whole.model.state_dict(), parts.model.state_dict())
