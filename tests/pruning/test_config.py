from __future__ import annotations

from typing import Any

import pytest

from asr_pathways.config import parse_config
from asr_pathways.errors import PathwaysError
from asr_pathways.pruning import PathwayConfig
from asr_pathways.pruning.config import RETIRED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": 0.5, "score": "luck"}, "score"),
        ({"sparsity": 0.5, "granularity": "rows"}, "none of unstructured"),
        ({"sparsity": 0.7, "granularity": "2:4"}, "fixes sparsity to 0.5"),
        ({"sparsity": 0.5, "granularity": "2:4", "allocation": "global"}, "takes schedule oneshot"),
        ({"sparsity": 0.5, "schedule": "iterative"}, "prune_every"),
        ({"sparsity": 0.5, "prune_every": 5}, "prune_every means nothing"),
        ({"sparsity": 0.5, "schedule": "cubic", "prune_every": 5}, "prune_stages"),
        ({"sparsity": 0.5, "score": "gradient", "adapt_every": 5}, "adapt_until"),
        ({"sparsity": 0.5, "gradient": "parp", "rewind": True}, "rewind"),
        ({"sparsity": 0.5, "sparsty": 0.7}, "sparsty"),
        ({"sparsity": 0.5, "adapt_growth": 1.5}, "adapt_growth is an option that is gone"),
        ({"sparsity": 0.5, "overlap_pull": 0.3}, "overlap_pull is an option that is gone"),
        ({"sparsity": 0.5, "hysteresis": -1}, "hysteresis"),
        ({"sparsity": 0.5, "score": "gradient", "hysteresis": 1}, "needs one score"),
        ({"sparsity": 0.5, "shared_middle": True, "shared": True}, "with shared every layer's mask is one for all"),
        ({"sparsity": 0.5, "shared_middle": True, "allocation": "global"}, "use uniform or erk"),
        ({"sparsity": 0.5, "shared_middle": True, "allocation": "blended"}, "allocation blended keeps other numbers"),
        (
            {"sparsity": 0.5, "shared_middle": True, "score": "gradient", "adapt_every": 5, "adapt_until": 9},
            "score gradient knows one language at a time",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PathwaysError, match=message) as caught:
        parse_config(PathwayConfig, options, "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_stages_fall_on_their_steps() -> None:
    config = PathwayConfig(sparsity=0.4, schedule="linear", prune_stages=2, prune_start=3, prune_every=5)
    assert {step: config.stage_at(step) for step in range(30) if config.stage_at(step) is not None} == {3: 0.2, 8: 0.4}
    assert PathwayConfig(sparsity=0.4).stage_at(0) == 0.4
    assert PathwayConfig(sparsity=0.4).stage_at(1) is None


def test_masks_adapt_every_so_many_steps_until_they_stay() -> None:
    config = PathwayConfig(sparsity=0.5, adapt_every=3, adapt_until=7)
    assert [step for step in range(1, 20) if config.adapts_at(step)] == [3, 6]
    assert not any(PathwayConfig(sparsity=0.5).adapts_at(step) for step in range(1, 20))


@pytest.mark.parametrize("languages", [[], "en", ["en", "en"], ["a/b"], [""], [7]])
def test_languages_are_distinct_codes(languages: Any) -> None:
    with pytest.raises(PathwaysError, match="languages"):
        PathwayConfig(sparsity=0.5).pathways(languages)


def test_parp_takes_one_mask() -> None:
    with pytest.raises(PathwaysError, match="share one mask"):
        PathwayConfig(sparsity=0.5, gradient="parp").pathways(["en", "fr"])
    assert PathwayConfig(sparsity=0.5, gradient="parp", shared=True).pathways(["en", "fr"]) == ("shared",)
    assert PathwayConfig(sparsity=0.5, gradient="parp").pathways(["en"]) == ("en",)


def test_retired_options_may_stay_where_they_do_nothing() -> None:
    assert PathwayConfig.model_validate({"sparsity": 0.5, **RETIRED}) == PathwayConfig(sparsity=0.5)
