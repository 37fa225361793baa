"""Typed configs as data: unknown keys are errors, values are frozen, YAML's odd numbers are coerced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_text

ConfigT = TypeVar("ConfigT", bound="Config")

_SHOWN = 10
"""Wrong keys that an error names."""


class Config(BaseModel):
    """Base of every config: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls: type[ConfigT], path: Path) -> ConfigT:
        """From a YAML file.

        Raises:
            PathwaysError: if the file is missing or wrong; the key is named.
        """
        return parse_config(cls, load_yaml(path), str(path))


def parse_config(kind: type[ConfigT], data: Any, source: str) -> ConfigT:
    """Validates ``data`` as ``kind``.

    Raises:
        PathwaysError: naming ``source``, the key, and what is wrong with it, in one line.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [
            ": ".join(filter(None, [".".join(map(str, item["loc"])), _problem(kind, item)])) for item in error.errors()
        ]
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise PathwaysError(f"{source}: {'; '.join(problems[:_SHOWN])}{more}") from None


def _problem(kind: type[BaseModel], item: Any) -> str:
    """What is wrong with one key, in our words where pydantic's are odd."""
    if item["type"] == "extra_forbidden":
        near = get_close_matches(str(item["loc"][-1]), _known(kind, item["loc"][:-1]), 1)
        return f"unknown key; did you mean {near[0]}?" if near else "unknown key"
    if item["type"] == "model_type":
        return "keys with values are wanted"
    return str(item["msg"]).removeprefix("Value error, ")


def _known(kind: type[BaseModel], keys: tuple[int | str, ...]) -> list[str]:
    """The keys that a config may have at a place inside ``kind``, as far as types determine them."""
    for key in keys:
        field = kind.model_fields.get(str(key))
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        plain = (one for one in kinds if isinstance(one, type) and get_origin(one) is None)  # 3.10: list[int] is a type
        inner = [one for one in plain if issubclass(one, BaseModel)]
        if not inner:
            return []
        kind = inner[0]
    return list(kind.model_fields)


def load_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        PathwaysError: if the file is missing or is not YAML.
    """
    text = read_text(path, "config")
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise PathwaysError(f"{path}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError) as error:  # of odd tags, anything
        raise PathwaysError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def differences(
    now: Mapping[str, Any], before: Mapping[str, Any], prefix: str = "", was: str = "it was"
) -> Iterator[str]:
    """``key value (it was value)`` of each that is another in two configs as plain data, with dots in keys."""
    for name in dict.fromkeys([*now, *before]):
        new, old = now.get(name), before.get(name)
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            yield from differences(new, old, f"{prefix}{name}.", was)
        elif repr(new) != repr(old):  # nan is not equal to itself
            yield f"{prefix}{name} {new} ({was} {old})"
