"""Scores that run along with training: against plain numpy, over resumes and over ranks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.optim import SGD, AdamW

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.scores import SCORES, Evidence, Score
from tests import warm
from tests.pruning.conftest import Recogniser, tokens
from tests.same import same

RUNNING = ("sensitivity", "platon", "movement")
LANGUAGES = ("en", "fr")


def rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


class Oracle:
    """One score of one weight, from the papers' formulas; only what is kept is rounded."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.mean, self.uncertainty, self.total = np.zeros(shape), np.zeros(shape), np.zeros(shape)

    def step(self, theta: np.ndarray, gradient: np.ndarray) -> None:
        importance = np.abs(theta * gradient)
        beta = 0.98 if self.name == "sensitivity" else 0.85
        mean = beta * self.mean + (1 - beta) * importance
        self.uncertainty = rounded(0.95 * self.uncertainty + 0.05 * np.abs(importance - mean)).astype(float)
        self.mean = rounded(mean).astype(float)
        self.total -= theta * gradient

    @property
    def score(self) -> np.ndarray:
        by_name = {"sensitivity": self.mean, "platon": self.mean * self.uncertainty, "movement": self.total}
        return by_name[self.name] - (self.total.min() if self.name == "movement" else 0)


def scores_of(pathways: Pathways, language: str, name: str) -> np.ndarray:
    running = pathways.state_dict()["statistics"][language][f"products/{name}"]
    assert running.dtype == torch.bfloat16
    kind: type[Score] = SCORES[pathways.config.score]
    assert running.shape[0] == kind.vectors
    return kind().of(Evidence(torch.zeros(running.shape[1:]), products=running.float())).double().numpy()


@pytest.mark.parametrize("name", RUNNING)
def test_twenty_steps_are_those_of_numpy(name: str) -> None:
    rng = np.random.default_rng(5)
    model = nn.Sequential(nn.Linear(7, 6, bias=False))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score=name, adapt_every=3), LANGUAGES)
    optimizer = SGD(model.parameters(), lr=0.05, weight_decay=0.1)
    oracles = {language: Oracle(name, (6, 7)) for language in LANGUAGES}
    for number in range(20):  # French every third
        language = LANGUAGES[number % 3 % 2]
        theta = model[0].weight.detach().double().numpy().copy()
        mask = pathways.mask(language)["0.weight"].numpy()
        gradient = np.zeros_like(theta)
        optimizer.zero_grad()
        for _ in range(2):  # batches of a step
            x, wanted = rng.normal(size=(4, 7)), rng.normal(size=(4, 6))
            gradient += 2 * (x @ (mask * theta).T - wanted).T @ x  # of the square distance, at m * theta
            with pathways.use(language):
                inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in (x, wanted))
                (model(inputs) - targets).square().sum().backward()
        oracles[language].step(theta, gradient)
        optimizer.step()
        events = pathways.step(optimizer)
        if events:
            (event,), kept = events, pathways.mask(language)["0.weight"].numpy()
            assert (event.score, kept.sum()) == (name, 21)
            score = oracles[language].score
            assert score[kept].min() >= score[~kept].max() * (1 - 2**-6)
        found = scores_of(pathways, language, "0.weight")
        np.testing.assert_allclose(found, oracles[language].score, rtol=2**-6, atol=2**-14 * abs(found).max())
    assert not np.array_equal(*(pathways.mask(language)["0.weight"].numpy() for language in LANGUAGES))


def test_small_movements_add_up() -> None:
    """Four thousand steps of a thousandth: one bfloat16 would stop at a half."""
    running, kind = torch.zeros(2, 1), SCORES["movement"]
    for _ in range(4000):
        values = running.float()
        kind.count(values, torch.tensor([-1e-3]))
        running = values.bfloat16()
    assert float(running.float().sum()) == pytest.approx(4.0, rel=1e-2)


@pytest.mark.parametrize("name", RUNNING)
def test_an_overflow_and_a_dropped_step_leave_no_trace(name: str) -> None:
    model = nn.Linear(3, 2)
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score=name), ["en"])
    for factor in (1.0, torch.inf, 0.0):
        with pathways.use("en"):
            (model(torch.ones(2, 3)).sum() * factor).backward()
        pathways.drop_step() if factor == 0 else pathways.step()
    assert np.isfinite(scores_of(pathways, "en", "weight")).all()
    before = pathways.state_dict()["statistics"]
    pathways.adapt("en")  # nothing was observed since: nothing decays
    after = pathways.state_dict()["statistics"]
    assert torch.equal(before["en"]["products/weight"], after["en"]["products/weight"])


def test_unreached_tensors_are_scored_by_magnitude_and_unobserved_languages_refused() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="platon"), LANGUAGES)
    with pytest.raises(PathwaysError, match=r"no gradient of 'fr' was observed yet.*calibrate"):
        pathways.adapt("fr")
    with torch.no_grad():
        model["unused"].weight.copy_(torch.arange(16).view(4, 4))
    with pathways.calibrate("fr"):
        model["used"](torch.randn(3, 4)).square().sum().backward()
    pathways.adapt("fr")
    assert pathways.mask("fr")["unused.weight"].view(-1).tolist() == [False] * 8 + [True] * 8


@pytest.mark.parametrize(("option", "message"), [({"allocation": "global"}, "one tensor"), ({"hysteresis": 1}, "zero")])
def test_what_movement_cannot_do_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathwayConfig(sparsity=0.5, score="movement", **option)
    assert PathwayConfig(sparsity=0.5, score="platon", **option)


def train(name: str, first: int, last: int, state: dict[str, Any] | None = None, rank: int = 0) -> dict[str, Any]:
    """The state after so many steps, of which each rank has other batches and, every third, another language."""
    torch.manual_seed(1)
    model = Recogniser()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.6, score=name, adapt_every=2), list(LANGUAGES))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "pathways": pathways}
    for part, saved in (state or {}).items():
        parts[part].load_state_dict(saved)
    for number in range(first, last):
        optimizer.zero_grad()
        with pathways.use(LANGUAGES[(number // 2 + (rank if number % 3 == 0 else 0)) % 2]):
            model(tokens(100 * rank + number)).square().mean().backward()
        if distributed.is_initialized():
            for parameter in model.parameters():
                distributed.all_reduce(parameter.grad)
        optimizer.step()
        pathways.step(optimizer)
    stream = io.BytesIO()
    torch.save({part: value.state_dict() for part, value in parts.items()}, stream)
    stream.seek(0)
    result: dict[str, Any] = torch.load(stream, weights_only=True)
    return result


@pytest.mark.parametrize("name", RUNNING)
def test_a_resumed_run_is_the_run_that_never_stopped(name: str) -> None:
    assert same(train(name, 7, 14, train(name, 0, 7)), train(name, 0, 14))


def as_rank(name: str, folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(train(name, 0, 12, rank=rank), folder / str(rank))  # raises where masks differ
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", RUNNING)
def test_ranks_keep_the_same(name: str, tmp_path: Path) -> None:
    processes = [warm.context().Process(target=as_rank, args=(name, tmp_path, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert same(first["pathways"], second["pathways"])
    single = train(name, 0, 12)  # of the first rank's batches alone
    assert not same(single["pathways"], first["pathways"])


@pytest.mark.parametrize("gradient", ["dense", "frozen", "parp"])
def test_products_are_of_dense_weights_and_dense_gradients(gradient: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False)
    config = PathwayConfig(sparsity=0.5, score="movement", gradient=gradient, shared=gradient == "parp")
    pathways = Pathways.attach(model, config, ["en"])
    x, theta, mask = torch.randn(5, 4), model.weight.detach().clone(), pathways.mask("en")["weight"]
    with pathways.use("en"):
        model(x).square().sum().backward()
    pathways.step()
    wanted = -theta * (2 * (x @ (theta * mask).T).T @ x)  # parp has written the zeros into theta
    found = torch.from_numpy(scores_of(pathways, config.pathways(["en"])[0], "weight")).float()
    torch.testing.assert_close(found, wanted - wanted.min(), rtol=1e-4, atol=1e-4)


def test_mixed_batches_count_as_batches_of_one_language_do() -> None:
    states = []
    for mixed in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, score="platon"), LANGUAGES)
        english, french = torch.randn(2, 4), torch.randn(1, 4)
        if mixed:
            with pathways.use(["en", "fr", "en"]) as rows:
                rows(model, torch.stack([english[0], french[0], english[1]])).square().sum().backward()
        else:
            for language, x in (("en", english), ("fr", french)):
                with pathways.use(language):
                    model(x).square().sum().backward()
        pathways.step()
        states.append(pathways.state_dict()["statistics"])
    for language in LANGUAGES:
        assert states[0][language]["products/weight"].any()
        torch.testing.assert_close(*(state[language] for state in states))
