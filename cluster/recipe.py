"""Reads recipes: YAML files of RunConfig, with fields overridden on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.config import RunConfig
from cluster.errors import ConfigError


def load_recipe(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads a recipe; ``overrides`` are ``a.b.c=value`` with YAML values (stages by name or position).

    Raises ConfigError in one sentence that names the field.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {path} is not a mapping of fields")
    return config_of(data, overrides or [], f"recipe {path}")


def config_of(data: dict[str, Any], overrides: Sequence[str], what: str) -> RunConfig:
    """A run from a recipe's fields; ``what`` names them in the ConfigError."""
    for override in overrides:
        _apply(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{what}: {_sentence(error)}") from None


def _apply(data: Any, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r} is not of the form field=value")
    *parents, last = key.split(".")
    place = data
    for part in parents:
        place = _child(place, part, key)
    if isinstance(place, list):
        place[_position(place, last, key)] = yaml.safe_load(text)
    else:
        place[last] = yaml.safe_load(text)


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, key)]
    if not isinstance(place, dict):
        raise ConfigError(f"--set {key}: {part!r} lies under a value that has no fields")
    return place.setdefault(part, {})


def _position(items: list[Any], part: str, key: str) -> int:
    for index, item in enumerate(items):
        if part == str(index) or (isinstance(item, dict) and item.get("name") == part):
            return index
    raise ConfigError(f"--set {key}: the list has no item {part!r}")


def _sentence(error: ValidationError) -> str:
    """The first complaint, with the way to its field, and how many more there are."""
    first, *rest = error.errors(include_url=False)
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such field"
    elif "input" in first and not isinstance(first["input"], dict | list):
        message += f" (is {first['input']!r})"
    more = f"; and {len(rest)} more" if rest else ""
    return (f"{where}: " if where else "") + message + more
