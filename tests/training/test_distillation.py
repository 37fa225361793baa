from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.model import HubCard
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.distillation import Distillation
from asr_pathways.training.loop import TrainingLoop
from asr_pathways.training.prune import prune
from tests.conftest import make_model
from tests.models.hub.tiny import hubert, whisper
from tests.training.helpers import dev_batches, same
from tests.training.test_prune import run


@pytest.fixture
def batch(speech: Path, tokenizer: Tokenizer) -> Batch:
    return dev_batches(speech, make_model(tokenizer), 2)[0]


def test_a_student_like_its_teacher_pays_nothing(tokenizer: Tokenizer, batch: Batch) -> None:
    teacher, student = make_model(tokenizer).model.eval(), make_model(tokenizer).model.eval()
    distillation = Distillation(teacher, 1.0)
    with distillation.watch(student):
        student.loss(batch)
        distance = float(distillation.loss(batch, torch.zeros(())).detach())
    assert distance < 1e-9  # attention rounds otherwise where there are gradients


def test_the_distance_is_that_of_valid_frames(tokenizer: Tokenizer, batch: Batch) -> None:
    teacher, student = make_model(tokenizer).model.eval(), make_model(tokenizer).model.eval()
    with torch.no_grad():
        for parameter in student.encoder.norm.parameters():
            parameter.add_(0.3)
    distillation = Distillation(teacher, 0.5)
    with distillation.watch(student):
        student.loss(batch)
        found = distillation.loss(batch, torch.zeros(()))
    total, count = 0.0, 0
    with torch.no_grad():
        for row, length in enumerate(batch.feature_lengths.tolist()):
            alone = batch.features[row : row + 1, :length]
            encoded = [
                model.encoder(model.normalize(alone), torch.tensor([length]))[0].double()
                for model in (teacher, student)
            ]
            total += float((encoded[0] - encoded[1]).square().sum())
            count += encoded[0].numel()
    assert float(found.detach()) == pytest.approx(0.5 * total / count, rel=1e-4)
    found.backward()
    assert student.encoder.norm.weight.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_each_loss_is_for_one_forward_pass(tokenizer: Tokenizer, batch: Batch) -> None:
    student = make_model(tokenizer).model
    distillation = Distillation(student, 1.0)
    with distillation.watch(student):
        student.loss(batch)
        distillation.loss(batch, torch.zeros(()))
        with pytest.raises(AssertionError, match="before the student's forward pass"):
            distillation.loss(batch, torch.zeros(()))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_the_student_keeps_no_hooks(
    fails: bool, tmp_path: Path, dense_model: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After training as before it, also where training ends by an error."""
    during: list[int] = []
    loops: list[TrainingLoop] = []
    step, plain = TrainingLoop._step, TrainingLoop.__init__

    def kept(self: TrainingLoop, *arguments: Any) -> None:
        plain(self, *arguments)
        loops.append(self)
        during.append(hooks(self.asr.model))

    def counted(self: TrainingLoop, *arguments: Any) -> None:
        during.append(hooks(self.asr.model))
        if fails:
            raise MemoryError
        step(self, *arguments)

    monkeypatch.setattr(TrainingLoop, "__init__", kept)
    monkeypatch.setattr(TrainingLoop, "_step", counted)
    with pytest.raises(MemoryError) if fails else nullcontext():
        run(dense_model, speech, tmp_path / "run", steps=1, distillation=1.0)
    (loop,), (before, training) = loops, during
    assert training == before + len(loop.asr.model.matched) > before
    assert hooks(loop.asr.model) == before


def test_pruning_with_a_teacher_resumes_as_if_it_had_never_stopped(
    tmp_path: Path, dense_model: Path, speech: Path
) -> None:
    run(dense_model, speech, tmp_path / "plain", steps=8)
    run(dense_model, speech, tmp_path / "whole", steps=8, distillation=2.0)
    plain, whole = (load_model(tmp_path / name).model.state_dict() for name in ("plain", "whole"))
    assert not same(plain, whole)
    run(dense_model, speech, tmp_path / "resumed", steps=8, distillation=2.0)
    (tmp_path / "resumed" / "config.json").unlink()  # as if killed after its last checkpoint
    run(dense_model, speech, tmp_path / "resumed", steps=8, distillation=2.0, resume=True)
    assert same(load_model(tmp_path / "resumed").model.state_dict(), whole)


def test_whisper_is_distilled_from_every_layer_of_encoder_and_decoder(speech: Path, tmp_path: Path) -> None:
    teacher, student = (load_model(whisper(tmp_path / name)).model for name in ("teacher", "student"))
    asr = load_model(tmp_path / "student")
    batch = dev_batches(speech, replace(asr, card=HubCard(languages=("en",))), 2)[0]
    for model in (teacher, student):
        model.train_on_short_windows()
    with torch.no_grad():
        student.network.get_submodule("model.encoder.layer_norm").get_parameter("bias").add_(0.5)
    distillation = Distillation(teacher, 2.0)
    with distillation.watch(student):
        student.eval().loss(batch)
        found = distillation.loss(batch, torch.zeros(()))
    with torch.no_grad():
        wanted, own = (model.encodings(batch.features, batch.feature_lengths, "en")[0] for model in (teacher, student))
        encoder = (own - wanted).square().mean() / wanted.var()
    assert float(encoder) == pytest.approx(0.25 / float(wanted.var()), rel=1e-3)
    assert student.matched == (
        "model.encoder.layers.1.self_attn_layer_norm",
        "model.encoder.layer_norm",
        "model.decoder.layers.1.self_attn_layer_norm",
        "model.decoder.layer_norm",
    )
    decoder = 4 / 2 * float(found.detach()) - float(encoder)  # the encoder's first layer is the teacher's
    assert decoder > 0
    found.backward()
    assert student.network.get_submodule("model.decoder.layers.0.fc1").get_parameter("weight").grad is not None


def test_models_without_matched_modules_are_told(speech: Path, tmp_path: Path) -> None:
    recipe = PruneRecipe.model_validate({"optimizer": {"steps": 2}, "distillation": 1.0})
    with pytest.raises(PathwaysError, match="distillation: only for Whisper and the transducers of this package"):
        prune(hubert(tmp_path / "h"), speech, tmp_path / "o", method="dynamic", sparsity=0.5, recipe=recipe)


@pytest.mark.parametrize("maker", [whisper, hubert])
def test_soft_targets_are_the_divergence_of_each_prediction(
    maker: Callable[[Path], Path], speech: Path, tmp_path: Path
) -> None:
    teacher, asr = load_model(maker(tmp_path / "m")), load_model(tmp_path / "m")
    batch = dev_batches(speech, replace(teacher, card=HubCard(languages=("en",))), 3)[0]
    for model in (teacher.model, asr.model):
        model.eval().train_on_short_windows()
    seen: list[torch.Tensor] = []
    student = asr.model
    with torch.no_grad():
        for parameter in student.network.get_submodule(student.classifier).parameters():
            parameter.add_(torch.linspace(-0.2, 0.2, parameter.numel()).view_as(parameter))
    for model in (teacher.model, student):
        model.network.get_submodule(model.classifier).register_forward_hook(lambda _, i, out: seen.append(out.detach()))
    distillation = Distillation(teacher.model, 0.0, soft_targets=0.25)
    with distillation.watch(student):
        text = student.loss(batch)
        teacher.model.loss(batch)
        found = distillation.loss(batch, text)
    total, count = 0.0, 0
    own, wanted = (logits.double().softmax(dim=-1) for logits in seen[:2])
    for row, length in enumerate(student.prediction_lengths(batch).tolist()):
        for n in range(length):
            total += sum(
                float(p) * math.log(float(p) / float(q)) for p, q in zip(wanted[row, n], own[row, n], strict=True)
            )
            count += 1
    assert count == int(student.prediction_lengths(batch).sum()) and total > 0
    assert float(found.detach()) == pytest.approx(0.75 * float(text.detach()) + 0.25 * total / count, rel=1e-4)
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_a_student_of_soft_targets_alone_comes_near_its_teacher(speech: Path, tmp_path: Path) -> None:
    """Text counts nothing then: what the dense model would say of it does."""
    recipe = {"optimizer": {"steps": 12, "peak_lr": 1e-3, "warmup_steps": 1}, "soft_targets": 1.0}
    dense = load_model(whisper(tmp_path / "random"))
    with torch.no_grad():
        dense.model.network.get_submodule("model.decoder.layer_norm").get_parameter("weight").mul_(20)  # to be sure
    folder = tmp_path / "whisper"
    save_model(folder, dense)
    for name, extra in (("before", {"optimizer": {"steps": 0}}), ("after", {})):
        values = PruneRecipe.model_validate({**recipe, "evaluation": {"utterances": 2}, **extra})
        prune(folder, speech, tmp_path / name, method="dynamic", sparsity=0.5, recipe=values, languages=["en"])
    dense.model.eval().train_on_short_windows()
    batch = dev_batches(speech, replace(dense, card=HubCard(languages=("en",))), 3)[0]
    divergences = []
    for name in ("before", "after"):
        asr = load_model(tmp_path / name)
        asr.model.eval().train_on_short_windows()
        distillation = Distillation(dense.model, 0.0, soft_targets=1.0)
        with distillation.watch(asr.model), torch.no_grad(), asr.use("en"):
            divergences.append(float(distillation.loss(batch, asr.model.loss(batch))))
    assert divergences[1] < 0.9 * divergences[0]


def test_models_without_a_classifier_are_told(dense_model: Path, speech: Path, tmp_path: Path) -> None:
    recipe = PruneRecipe.model_validate({"optimizer": {"steps": 2}, "soft_targets": 1.0})
    with pytest.raises(PathwaysError, match="soft_targets: only for Whisper and CTC models but Parakeet"):
        prune(dense_model, speech, tmp_path / "o", method="dynamic", sparsity=0.5, recipe=recipe)
