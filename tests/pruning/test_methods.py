from __future__ import annotations

import pytest
import torch

from asr_pathways import Pathways
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import METHODS
from tests.pruning.conftest import Recogniser, tokens


def test_the_table_of_methods() -> None:
    table = {
        name: (method.schedule, method.gradient, method.adapts, method.rewind, method.per_language)
        for name, method in METHODS.items()
    }
    assert table == {
        "omp": ("oneshot", "frozen", False, False, False),
        "imp": ("iterative", "frozen", False, False, False),
        "lth": ("iterative", "frozen", False, True, False),
        "parp": ("oneshot", "parp", True, False, False),
        "adaptive": ("iterative", "dense", True, False, False),
        "pathways": ("oneshot", "frozen", False, False, True),
        "dynamic": ("oneshot", "dense", True, False, True),
    }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("languages", [["fr"], ["en", "fr"]])
def test_every_method_trains_to_its_sparsity(name: str, languages: list[str]) -> None:
    torch.manual_seed(0)
    model, steps = Recogniser(), 28
    config = METHODS[name].config(0.7, steps, languages, exclude=("output",))
    pathways = Pathways.attach(model, config, languages)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    events = []
    for number in range(steps):
        optimizer.zero_grad()
        with pathways.use(languages[number % len(languages)]):
            model(tokens(number)).square().mean().backward()
        optimizer.step()
        events += pathways.step(optimizer)
    assert pathways.at_target
    assert all(sparsity == pytest.approx(0.7, abs=0.01) for sparsity in pathways.summary().sparsity.values())
    kinds = {event.kind for event in events}
    assert ("adapt" in kinds) == METHODS[name].adapts
    assert ("prune" in kinds) == (config.schedule == "iterative")
    masks = 1 if config.shared else len(languages)
    assert config.pathways(languages) == (("shared",) if config.shared else tuple(languages))
    assert pathways.summary().mask_bytes <= masks * (pathways.summary().weights / 8 + len(pathways.names))


def test_stages_leave_each_as_many_steps() -> None:
    imp = METHODS["imp"].config(0.7, 600, ["en"])
    assert (imp.prune_start, imp.prune_every) == (0, 100)
    lth = METHODS["lth"].config(0.7, 700, ["en"])
    assert (lth.prune_start, lth.prune_every) == (100, 100)


def test_masks_adapt_many_times_between_two_prunes() -> None:
    adaptive = METHODS["adaptive"].config(0.7, 1200, ["en"])
    assert adaptive.adapt_every is not None and adaptive.prune_every is not None
    assert adaptive.adapt_every * 3 <= adaptive.prune_every
    dynamic = METHODS["dynamic"].config(0.7, 1000, ["en", "fr", "de", "es", "it"])
    assert dynamic.adapt_every == 10  # of the 200 steps that each language has


def test_the_power_of_activations_is_the_methods_where_they_are_the_score() -> None:
    assert METHODS["dynamic"].config(0.7, 100, ["en"]).activation_power == 0.5
    assert METHODS["dynamic"].config(0.7, 100, ["en"], activation_power=0.25).activation_power == 0.25
    assert METHODS["dynamic"].config(0.7, 100, ["en"], score="magnitude").activation_power == 1
    assert METHODS["pathways"].config(0.7, 100, ["en"], score="activation").activation_power == 1


def test_options_take_precedence() -> None:
    config = METHODS["dynamic"].config(
        0.5, 100, ["en"], score="magnitude", schedule="cubic", prune_stages=4, adapt_every=7, revived="reset"
    )
    assert (config.score, config.schedule, config.prune_every, config.adapt_every) == ("magnitude", "cubic", 25, 7)
    rigl = METHODS["dynamic"].config(0.5, 100, ["en"], score="gradient")
    assert rigl.adapt_until == 75


def test_wrong_options_are_one_line() -> None:
    for options in ({"sparsity": 1.5}, {"granularity": "rows"}, {"bogus": 1}):
        with pytest.raises(PathwaysError, match=next(iter(options))) as caught:
            METHODS["omp"].config(options.pop("sparsity", 0.5), 10, ["en"], **options)
        assert "\n" not in str(caught.value)
