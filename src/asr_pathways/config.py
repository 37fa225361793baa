"""Typed configs as data: unknown keys are errors, values are frozen, YAML's odd numbers are coerced."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from asr_pathways.errors import PathwaysError

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every config: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_config(kind: type[ConfigT], data: Any, source: str) -> ConfigT:
    """Validates ``data`` as ``kind``.

    Raises:
        PathwaysError: naming ``source``, the key, and what is wrong with it, in one line.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(key) for key in item['loc']) or 'config'}: {item['msg']}" for item in error.errors()
        )
        raise PathwaysError(f"{source}: {problems}") from None


def load_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        PathwaysError: if the file is missing or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PathwaysError(f"{path}: cannot read config: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PathwaysError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
