from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.errors import PathwaysError
from asr_pathways.shrink.planning import Chosen
from asr_pathways.shrink.plans import HUB, OWN, Plan, choose, parse_budget


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("0", 0), ("8h", 28800)])
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "30 minutes", "-1", "1.5h", "m", "30", "1h30"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(PathwaysError, match="not a time such as 30m"):
        parse_budget(text)


@pytest.mark.parametrize("plans", [HUB, OWN])
def test_the_longest_plan_within_the_budget_is_chosen(plans: tuple[Plan, ...]) -> None:
    def seconds(plan: Plan) -> float:
        return 10.0 + plan.finetune + plan.steps

    taken = [seconds(plan) for plan in plans]
    assert taken == sorted(taken, reverse=True)
    for plan in plans:
        assert choose(plans, seconds, seconds(plan)) is plan
    assert choose(plans, seconds, 1.0) is plans[-1]
    timed: list[Plan] = []
    assert choose(plans, lambda plan: timed.append(plan) or 0.0, 0.0) is plans[-1] and not timed
    assert plans[-1].steps == plans[-1].finetune == 0


def test_little_speech_is_not_refitted_on_again_and_again() -> None:
    assert [plan.within(20 * 60).refit for plan in HUB] == [plan.refit for plan in HUB]
    assert [plan.within(10).refit for plan in HUB] == [2] * len(HUB)
    assert [plan.within(10).refit for plan in OWN] == [0] * len(OWN)


def test_the_page_has_the_plans() -> None:
    page = (Path(__file__).parents[2] / "docs" / "shrink.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.count(" | ") == 5][1:]
    found = [
        (
            *(int(cell.replace(",", "")) for cell in row[:3]),
            tuple(float(cell.rstrip("%")) / 100 for cell in row[3:5]),
            tuple(map(float, row[5].split(" to "))),
        )
        for row in rows
    ]
    assert found == [(plan.finetune, plan.refit, plan.steps, plan.sparsity, plan.errors) for plan in HUB]


def test_a_slow_machine_takes_fewer_steps() -> None:
    chosen = Chosen(
        model="m",
        data="d (0)",
        named=("fr",),
        languages=("fr",),
        target="size",
        budget=1800,
        finetune=100,
        steps=300,
        refit=12,
        sparsity=0.7,
        dtype="int8",
        precision="32-true",
        pace=1.0,
        step=4.0,
        rest=1600.0,
    )
    assert chosen.in_time(0.5, 200) == chosen.in_time(1.0, 100) == chosen.in_time(1.05, 120) == chosen
    assert chosen.in_time(1.0, 600).steps == 300 - 400 / 4.0
    assert chosen.in_time(1.25, 120).steps == 300 - (120 + 2000 - 1800) / 5.0
    late = chosen.in_time(9.0, 1700)
    assert late.steps == 300 / 4 and late.in_time(9.0, 1700) == late  # and never fewer
