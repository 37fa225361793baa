"""Two ranks of one run: they see different data and must choose the same masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from asr_pathways import PathwayConfig, Pathways, ranks
from asr_pathways.errors import PathwaysError
from tests import warm
from tests.pruning.conftest import Recogniser, tokens

CONFIGS: list[dict[str, Any]] = [
    {"score": "activation", "gradient": "dense"},
    {"score": "gradient", "gradient": "frozen", "adapt_until": 50},
]


def spawn(run: Callable[[int, str], None], folder: Path) -> None:
    """Runs two ranks to their end."""
    warm.context()
    torch.multiprocessing.start_processes(run, args=(str(folder),), nprocs=2, start_method="forkserver")


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = []
    if rank == 0:
        with ranks.apart():  # what the other does not wait for
            tried = Recogniser()
            pathways = Pathways.attach(tried, PathwayConfig(sparsity=0.6, adapt_every=2), ["en"])
            with pathways.use("en"):
                tried(tokens(0)).square().mean().backward()
            pathways.step(torch.optim.SGD(tried.parameters(), lr=0.1))
            assert ranks.alone()
    assert not ranks.alone()
    for options in CONFIGS:
        torch.manual_seed(0)
        model = Recogniser()
        pathways = Pathways.attach(model, PathwayConfig(sparsity=0.6, adapt_every=2, **options), ["en", "fr"])
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        changed = 0.0
        for number in range(8):
            optimizer.zero_grad()
            language = ["en", "fr"][(number // 2 + rank * (number > 3)) % 2]  # at first the same on both ranks
            with pathways.use(language):
                parallel(tokens(2 * number + rank)).square().mean().backward()
            optimizer.step()
            changed += sum(event.changed for event in pathways.step(optimizer))
        masks = {language: pathways.mask(language) for language in pathways.languages}
        results.append({"model": model.state_dict(), "masks": masks, "changed": changed})
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed")
def test_ranks_choose_the_same_masks(tmp_path: Path) -> None:
    spawn(run_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for one, other in zip(first, second, strict=True):
        assert one["changed"] > 0
        for language, masks in one["masks"].items():
            assert all(torch.equal(mask, other["masks"][language][name]) for name, mask in masks.items())
        assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())


def diverge(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Recogniser()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.6, adapt_every=2, score="magnitude"), ["en", "fr"])
    weight = model.get_parameter(pathways.names[1])
    if rank == 1:
        weight.data[0, :3] += 1  # what a forgotten broadcast or a bad memory may do
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for number in range(2):
        with pathways.use("fr"):
            model(tokens(number)).square().mean().backward()
        optimizer.step()
        try:
            pathways.step(optimizer)
        except PathwaysError as error:
            Path(f"{folder}/{rank}.txt").write_text(f"{number} {error}")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed")
def test_a_rank_that_diverged_is_caught_at_the_next_adaptation(tmp_path: Path) -> None:
    spawn(diverge, tmp_path)
    name = Pathways.attach(Recogniser(), PathwayConfig(sparsity=0.6), ["en"]).names[1]
    for rank in range(2):
        said = (tmp_path / f"{rank}.txt").read_text()
        assert said.startswith(f"1 step 2: the mask of fr for {name} is not the same on all ranks")
