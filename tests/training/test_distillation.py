from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr_pathways.data.batches import Batch
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.errors import PathwaysError
from asr_pathways.model_folder import HubCard, load_recognizer
from asr_pathways.training.distillation import Distillation
from asr_pathways.training.prune import PruneRecipe, prune
from asr_pathways.training.train import dev_batches
from tests.conftest import make_recognizer
from tests.models.hub.tiny import hubert, whisper
from tests.training.helpers import same
from tests.training.test_prune import run


@pytest.fixture
def batch(speech: Path, tokenizer: Tokenizer) -> Batch:
    return dev_batches(speech, make_recognizer(tokenizer), 2)[0]


def test_a_student_like_its_teacher_pays_nothing(tokenizer: Tokenizer, batch: Batch) -> None:
    teacher, student = make_recognizer(tokenizer).model.eval(), make_recognizer(tokenizer).model.eval()
    distillation = Distillation(teacher, 1.0)
    distillation.watch(student)
    student.loss(batch)
    assert float(distillation.loss(batch).detach()) < 1e-9  # attention rounds otherwise where there are gradients


def test_the_distance_is_that_of_valid_frames(tokenizer: Tokenizer, batch: Batch) -> None:
    teacher, student = make_recognizer(tokenizer).model.eval(), make_recognizer(tokenizer).model.eval()
    with torch.no_grad():
        for parameter in student.encoder.norm.parameters():
            parameter.add_(0.3)
    distillation = Distillation(teacher, 0.5)
    distillation.watch(student)
    student.loss(batch)
    found = distillation.loss(batch)
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
    student = make_recognizer(tokenizer).model
    distillation = Distillation(student, 1.0)
    distillation.watch(student)
    student.loss(batch)
    distillation.loss(batch)
    with pytest.raises(AssertionError, match="before the student's forward pass"):
        distillation.loss(batch)


def test_pruning_with_a_teacher_resumes_as_if_it_had_never_stopped(
    tmp_path: Path, dense_model: Path, speech: Path
) -> None:
    run(dense_model, speech, tmp_path / "plain", steps=8)
    run(dense_model, speech, tmp_path / "whole", steps=8, distillation=2.0)
    plain, whole = (load_recognizer(tmp_path / name).model.state_dict() for name in ("plain", "whole"))
    assert not same(plain, whole)
    run(dense_model, speech, tmp_path / "resumed", steps=8, distillation=2.0)
    (tmp_path / "resumed" / "config.json").unlink()  # as if killed after its last checkpoint
    run(dense_model, speech, tmp_path / "resumed", steps=8, distillation=2.0, resume=True)
    assert same(load_recognizer(tmp_path / "resumed").model.state_dict(), whole)


def test_whisper_is_distilled_from_every_layer_of_encoder_and_decoder(speech: Path, tmp_path: Path) -> None:
    teacher, student = (load_recognizer(whisper(tmp_path / name)).model for name in ("teacher", "student"))
    recognizer = load_recognizer(tmp_path / "student")
    batch = dev_batches(speech, replace(recognizer, card=HubCard(languages=("en",))), 2)[0]
    for model in (teacher, student):
        model.train_on_short_windows()
    with torch.no_grad():
        student.network.get_submodule("model.encoder.layer_norm").get_parameter("bias").add_(0.5)
    distillation = Distillation(teacher, 2.0)
    distillation.watch(student)
    student.eval().loss(batch)
    found = distillation.loss(batch)
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
