from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asr_pathways.training.config import OptimizerConfig
from asr_pathways.training.optimizer import learning_rate, make_optimizer


def test_the_schedule_rises_holds_and_falls() -> None:
    config = OptimizerConfig(steps=100, peak_lr=1.0, final_lr=0.2, warmup_steps=10, hold_steps=30)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10:41] == pytest.approx([1.0] * 31)
    assert rates[55] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + 0.5**0.5))  # a quarter of the cosine
    assert rates[70] == pytest.approx(0.6)  # half of it
    assert rates[100] == pytest.approx(0.2)
    assert rates[40:] == sorted(rates[40:], reverse=True)
    assert learning_rate(1000, config) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"steps": 4, "peak_lr": 1.0, "final_lr": 0.0}, [1.0, 0.853553, 0.5, 0.146447, 0.0]),
        ({"steps": 4, "peak_lr": 1.0, "warmup_steps": 8}, [0.125, 0.25, 0.375, 0.5, 0.625]),
        ({"steps": 4, "peak_lr": 1.0, "hold_steps": 9}, [1.0] * 5),
    ],
)
def test_schedules_without_one_of_the_parts(options: dict[str, float], rates: list[float]) -> None:
    config = OptimizerConfig.model_validate(options)
    assert [learning_rate(step, config) for step in range(5)] == pytest.approx(rates, abs=1e-6)


def test_one_update_is_adamw_and_that_of_an_older_checkpoint_too() -> None:
    torch.manual_seed(0)
    models = [nn.Linear(3, 4) for _ in range(3)]
    config = OptimizerConfig(steps=1, peak_lr=0.1, weight_decay=0.5)
    groups = [{"params": [models[0].weight], "weight_decay": 0.5}, {"params": [models[0].bias], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=0.1, betas=config.betas)
    ours, resumed = (make_optimizer(model.parameters(), config) for model in models[1:])
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    x = torch.randn(5, 3)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step(models[0], plain)
        step(models[1], ours)
    resumed.load_state_dict(copy.deepcopy(plain.state_dict()))  # of a run before AdamW was fused
    models[2].load_state_dict(models[0].state_dict())
    for model, optimizer in zip(models, (plain, ours, resumed), strict=True):
        step(model, optimizer)
    torch.testing.assert_close(models[1].weight, models[0].weight)
    assert torch.equal(models[2].weight, models[0].weight)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.LSTM(4, 2))
    model[0].bias.requires_grad_(False)
    optimizer = make_optimizer(model.parameters(), OptimizerConfig(steps=1, weight_decay=0.5, betas=(0.8, 0.9)))
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert decayed["betas"] == (0.8, 0.9)
    assert sorted(tuple(parameter.shape) for parameter in decayed["params"]) == [(4, 3), (8, 2), (8, 4)]
    assert sorted(tuple(parameter.shape) for parameter in plain["params"]) == [(4,), (4,), (8,), (8,)]
