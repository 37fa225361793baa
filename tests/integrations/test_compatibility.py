"""What pathways work together with: docs/loops.md has the table."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from asr_pathways import Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.integrations.transformers import PathwaysCallback
from tests.integrations.test_transformers import trainer
from tests.integrations.tiny import alternating, attach, loss_of, recogniser, same

BATCH = alternating()[0]
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def attach_unlike(model: nn.Module, **options: Any) -> Pathways:
    """Pathways whose languages have masks of their own from the start."""
    pathways = attach(model, **options)
    generator = torch.Generator().manual_seed(3)
    for language in pathways.languages:
        masks = {name: torch.rand(mask.shape, generator=generator) < 0.4 for name, mask in pathways.mask("en").items()}
        pathways.set_mask(language, masks)
    return pathways


def losses_and_gradients(model: nn.Module, pathways: Pathways, called: nn.Module | None = None) -> dict[str, Any]:
    """Of one batch under each language in turn, and then under the first again."""
    found: dict[str, Any] = {}
    for turn, language in enumerate([*pathways.languages, pathways.languages[0]]):
        model.zero_grad()
        with pathways.use(language):
            loss = loss_of(model if called is None else called, BATCH)
            loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found[f"{turn} {language}"] = {"loss": loss.detach(), **gradients}
    return found


def assert_close(found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> None:
    assert expected["0 en"]["loss"] != expected["1 fr"]["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# --- gradient checkpointing and autocast ------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["dense", "frozen"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool, gradient: str) -> None:
    plain, saving = recogniser(), recogniser()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5 has another name for it
        saving.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    calls: list[int] = []
    saving.wav2vec2.encoder.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    found = losses_and_gradients(saving, attach_unlike(saving, gradient=gradient))
    assert len(calls) == 6  # three forward passes, each layer run again in the backward pass
    assert_close(found, losses_and_gradients(plain, attach_unlike(plain, gradient=gradient)))


def test_bfloat16_autocast() -> None:
    """Autocast keeps low-precision copies of weights: they must not outlive a switch of language."""
    model = recogniser()
    pathways = attach_unlike(model)
    for language in ("en", "fr", "en"):
        alone = recogniser()
        alone.load_state_dict(pathways.extract(language))
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), pathways.use(language):
            loss = loss_of(model, BATCH)
            loss.backward()
        with torch.autocast("cpu", torch.bfloat16):
            expected = loss_of(alone, BATCH)
        expected.backward()
        assert torch.equal(loss, expected)
        twins = zip(model.parameters(), alone.parameters(), strict=True)
        assert all(torch.equal(one.grad, two.grad) for one, two in twins if one.grad is not None)


@pytest.mark.parametrize("options", [{"bf16": True}, {"gradient_checkpointing": True}], ids=lambda one: next(iter(one)))
def test_arguments_of_the_trainer(options: dict[str, bool], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        run, masks = trainer(tmp_path, max_steps=4, gradient_accumulation_steps=2, **options)
        run.train()
    assert masks.steps == 4
    assert all(share == pytest.approx(0.6, abs=0.01) for share in masks.summary().sparsity.values())


# --- torch.compile ----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("gradient", ["dense", "frozen"])
@pytest.mark.parametrize("attach_to", ["the compiled model", "the model before", "the model after"])
def test_compiled(attach_to: str, gradient: str) -> None:
    plain, model = (recogniser(num_hidden_layers=1) for _ in range(2))
    options = {"gradient": gradient, "score": "magnitude"}
    pathways = attach_unlike(model, **options) if attach_to == "the model before" else None
    compiled = torch.compile(model, backend="aot_eager")
    if pathways is None:
        pathways = attach_unlike(compiled if attach_to == "the compiled model" else model, **options)
    found = losses_and_gradients(model, pathways, compiled)
    assert_close(found, losses_and_gradients(plain, attach_unlike(plain, **options)))


@pytest.mark.usefixtures("fresh_compiler")
def test_a_model_that_was_trained_compiled_is_compiled_anew() -> None:
    """Compiled code does not look for new hooks, so scores that need them have nothing to go by until a reset."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    compiled = torch.compile(model, backend="aot_eager")
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    compiled(features).sum().backward()
    pathways = attach(model)
    with pathways.use("en"):
        compiled(features).sum().backward()
    with pytest.raises(PathwaysError, match="no activation of 'en' was observed"):
        pathways.adapt("en")
    torch.compiler.reset()
    with pathways.use("en"):
        compiled(features).sum().backward()
    assert pathways.adapt("en").score == "activation"


# --- LoRA -------------------------------------------------------------------------------------------------------


def test_lora_over_a_sparse_frozen_base(tmp_path: Path) -> None:
    base = recogniser()
    start = {name: value.clone() for name, value in base.state_dict().items()}
    pathways = attach_unlike(base, adapt_every=None)
    model = get_peft_model(base, LORA)  # freezes the base
    lora = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    assert lora and all(".lora_" in name for name in lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for batch in alternating():
        with pathways.use(batch["language"]):
            for name, mask in pathways.mask(batch["language"]).items():
                assert not base_weight(model, name)[~mask].any()
            loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        pathways.step(optimizer)
    assert all(torch.equal(base_weight(model, name), value) for name, value in start.items())
    assert all(not torch.equal(model.get_parameter(name), value) for name, value in lora.items())

    pathways.save(tmp_path / "pathways")  # under the names of the base: a plain one loads it
    again = Pathways.load(recogniser(), tmp_path / "pathways")
    assert same(again.mask("fr"), pathways.mask("fr"))


def base_weight(model: PeftModel, name: str) -> Tensor:
    weights = {name.replace(".base_layer", ""): w for name, w in model.base_model.model.state_dict().items()}
    return weights[name]


def test_the_matrices_of_lora_are_not_pruned() -> None:
    model = get_peft_model(recogniser(), LORA)
    with pytest.raises(PathwaysError, match=r"lora_.* would be pruned: attach pathways before peft.get_peft_model"):
        PathwaysCallback(attach(model))
    pathways = PathwaysCallback(attach_unlike(model, exclude=("*.lora_*",))).pathways
    assert sum(".base_layer." in name for name in pathways.names) == 4
    sparse = pathways.extract("fr")
    assert all((sparse[name] == 0).float().mean() > 0.5 for name in pathways.names)


def test_lora_in_a_trainer_resumes(tmp_path: Path) -> None:
    runs = []
    for out in ("straight", "resumed"):
        base = recogniser()
        masks = attach(base)
        torch.manual_seed(5)
        model = get_peft_model(base, LORA)
        options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
        run, _ = trainer(tmp_path / out, model=model, pathways=masks, **options)
        run.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3") if runs else None)
        runs.append((model.state_dict(), masks.state_dict()))
    assert same(runs[0], runs[1])


# --- traces and copies --------------------------------------------------------------------------------------------


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waves: Tensor) -> Tensor:
        logits: Tensor = self.model(waves).logits
        return logits


TRACERS: dict[str, Any] = {
    "jit.trace": lambda model, waves: torch.jit.trace(Logits(model), waves, strict=False, check_trace=False),
    "jit.trace of a part": lambda model, _: torch.jit.trace(
        model.wav2vec2.encoder.layers[1].feed_forward, torch.randn(1, 3, 16), check_trace=False
    ),
    "export": lambda model, waves: torch.export.export(Logits(model), (waves,)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", list(TRACERS))
@pytest.mark.parametrize("training", [True, False])
def test_a_trace_inside_use_is_refused_since_it_would_be_dense_after_it(how: str, training: bool) -> None:
    model = recogniser().train(training)
    pathways = attach_unlike(model, score="magnitude")
    waves = BATCH["input_values"]
    with pathways.use("en"), pytest.raises(PathwaysError, match=r"tracing or exporting inside use\(\)"):
        TRACERS[how](model, waves)
    if not training:
        TRACERS[how](model, waves)  # outside it is what it looks like, dense
    assert not any(module._forward_pre_hooks for module in model.modules() if type(module) is type(model))


@pytest.mark.filterwarnings("ignore")
def test_a_copy_made_inside_use_keeps_its_zeros_and_can_be_traced() -> None:
    model = recogniser().eval()
    pathways = attach_unlike(model)
    waves = BATCH["input_values"]
    with torch.no_grad(), pathways.use("fr"):
        expected = model(waves).logits
        copied = copy.deepcopy(model)
        traced = torch.jit.trace(Logits(copied), waves, strict=False, check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(copied(waves).logits, expected)
        torch.testing.assert_close(traced(waves), expected)
        assert not torch.allclose(model(waves).logits, expected)


def test_a_copied_teacher_adds_nothing_to_the_statistics() -> None:
    plain, taught = recogniser(), recogniser()
    alone, watched = attach(plain), attach(taught)
    with watched.use("en"):  # from now on hooks are there
        loss_of(taught, BATCH)
    with alone.use("en"):
        loss_of(plain, BATCH)
    teacher = copy.deepcopy(taught)
    for model, pathways in ((plain, alone), (taught, watched)):
        with pathways.use("en"):
            loss = loss_of(model, BATCH)
            if model is taught:
                with torch.no_grad():
                    loss_of(teacher, {**BATCH, "input_values": 9 * BATCH["input_values"]})
            loss.backward()
        pathways.step()
    assert same(alone.state_dict()["statistics"], watched.state_dict()["statistics"])


def test_an_averaged_copy_gets_masks_by_pathways_of_its_own() -> None:
    model = recogniser().eval()
    pathways = attach_unlike(model)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    its = Pathways.attach(averaged.module, pathways.config, pathways.languages)
    its.masks_from(pathways)
    with torch.no_grad():
        with pathways.use("fr"):
            expected = model(BATCH["input_values"]).logits
        with its.use("fr"):
            torch.testing.assert_close(averaged(BATCH["input_values"]).logits, expected)
