"""``repeat``: a part of a recipe's stages several times over, written out as plain stages before the recipe is read.

    - kind: repeat                      rm.1 mined.1   rm.2 mined.2
      rounds: 2                 ->
      stages: [rm, mined]

A stage NAME of round r is called ``NAME.r``. Inside, ``stage:NAME`` means this round's stage if it stands earlier in
the round, else that of the round before; in the first round, the stage of that name before the repeat. After the repeat
it means the last round's, and ``stage:NAME.0`` that before it. In a list, ``stage:NAME@rounds`` stands for those of all
rounds so far.
"""

from __future__ import annotations

import re
from typing import Any, cast

_REFERENCE = re.compile(r"stage:([A-Za-z0-9._-]+?)(@rounds|@[0-9]+)?")
# Fields that name an evaluation without the prefix.
_BARE = {"compare_with"}


def written_out(stages: Any) -> Any:
    """The list of stages without any ``repeat``; what is not a list of mappings is left for the recipe's own checks.

    Raises ValueError for a repeat that is not one.
    """
    if not isinstance(stages, list | tuple):
        return stages
    flat: list[Any] = []
    names: dict[str, str] = {}  # what a name means now
    rounds: dict[str, list[str]] = {}  # the stages of that name in the rounds so far
    for stage in cast("list[Any]", stages):
        if isinstance(stage, dict) and cast("dict[str, Any]", stage).get("kind") == "repeat":
            for number in range(1, _rounds(cast("dict[str, Any]", stage)) + 1):
                for inner in stage["stages"]:
                    flat.append(_of_round(inner, number, names, rounds))
        else:
            flat.append(_resolved(stage, names, rounds) if names else stage)
    return flat


def _rounds(repeat: dict[str, Any]) -> int:
    unknown = repeat.keys() - {"kind", "name", "rounds", "stages"}
    if unknown:
        raise ValueError(f"stages.repeat.{unknown.pop()}: no such field")
    number, inner = repeat.get("rounds"), repeat.get("stages")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"stages.repeat.rounds must be a number of at least 1 (is {number!r})")
    if not isinstance(inner, list | tuple) or not inner:
        raise ValueError("stages.repeat.stages must be a list of stages")
    for stage in cast("list[Any]", inner):
        if not isinstance(stage, dict) or not isinstance(cast("dict[str, Any]", stage).get("name"), str):
            raise ValueError("stages.repeat.stages: each needs a name")
        if cast("dict[str, Any]", stage).get("kind") == "repeat":
            raise ValueError("stages.repeat.stages: a repeat in a repeat is not offered")
    return number


def _of_round(stage: dict[str, Any], number: int, names: dict[str, str], rounds: dict[str, list[str]]) -> Any:
    written = _resolved(stage, names, rounds)
    name = f"{stage['name']}.{number}"
    names.setdefault(f"{stage['name']}.0", stage["name"])
    names[stage["name"]] = name
    rounds.setdefault(stage["name"], []).append(name)
    return {**written, "name": name, "round": number}


def _resolved(value: Any, names: dict[str, str], rounds: dict[str, list[str]]) -> Any:
    if isinstance(value, str):
        match = _REFERENCE.fullmatch(value)
        if match is None or match[2] == "@rounds":
            return value
        return f"stage:{names.get(match[1], match[1])}{match[2] or ''}"
    if isinstance(value, list | tuple):
        parts = [_of_all_rounds(item, rounds) or [_resolved(item, names, rounds)] for item in cast("list[Any]", value)]
        return [item for part in parts for item in part]
    if isinstance(value, dict):
        return {
            key: names.get(item, item) if key in _BARE and isinstance(item, str) else _resolved(item, names, rounds)
            for key, item in cast("dict[str, Any]", value).items()
        }
    return value


def _of_all_rounds(item: Any, rounds: dict[str, list[str]]) -> list[str]:
    match = _REFERENCE.fullmatch(item) if isinstance(item, str) else None
    return [f"stage:{name}" for name in rounds.get(match[1], [])] if match and match[2] == "@rounds" else []
