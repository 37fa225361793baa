from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from asr_pathways.config import Config, differences, load_yaml, parse_config
from asr_pathways.errors import PathwaysError


class Inner(Config):
    rate: float = 1.0


class Outer(Config):
    steps: int = Field(gt=0)
    inner: Inner = Inner()


def test_values_are_coerced_and_frozen() -> None:
    config = parse_config(Outer, {"steps": 3, "inner": {"rate": "1e-3"}}, "x.yaml")  # so PyYAML reads 1e-3
    assert config == Outer(steps=3, inner=Inner(rate=0.001))
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"steps": 3, "stpes": 4}, r"x.yaml: stpes: unknown key; did you mean steps\?$"),
        ({"steps": 3, "inner": {"rat": 4}}, r"x.yaml: inner.rat: unknown key; did you mean rate\?$"),
        ({"steps": 3, "colour": "red"}, "x.yaml: colour: unknown key$"),
        ({}, "x.yaml: steps: Field required"),
        ({"steps": 0}, "x.yaml: steps: Input should be greater than 0"),
        (
            {"steps": "many", "inner": {"rate": []}},
            "x.yaml: steps: .*valid integer.*; inner.rate: .*valid number",
        ),
        (None, "x.yaml: keys with values are wanted"),
        ([1], "x.yaml: keys with values are wanted"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(data: object, message: str) -> None:
    with pytest.raises(PathwaysError, match=message) as caught:
        parse_config(Outer, data, "x.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("steps: 3  # few\ninner: {rate: 1e-3}\n", encoding="utf-8")
    assert parse_config(Outer, load_yaml(tmp_path / "x.yaml"), "x").inner.rate == 0.001


@pytest.mark.parametrize("content", [b"a: [1", b"a: b: c", b"\xff\xfe\x00\x80", b"!!python/object/apply:os.getcwd []"])
def test_broken_yaml_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(PathwaysError, match=r"x.yaml: not (valid YAML: |UTF-8 text)") as caught:
        load_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


def test_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(PathwaysError, match=r"x.yaml: cannot read config: No such file or directory"):
        load_yaml(tmp_path / "x.yaml")


def test_differences_are_named_and_nan_is_none() -> None:
    now = {"a": 1, "b": {"c": float("nan"), "d": 2}, "e": [1]}
    before = {"a": 1, "b": {"c": float("nan"), "d": 3}, "f": "x"}
    assert list(differences(now, before)) == ["b.d 2 (it was 3)", "e [1] (it was None)", "f None (it was x)"]
    assert list(differences(now, now)) == []
