"""Which problems a model has learned from, written beside its weights: a leak is found after the run has ended, too.

``learned_problems.json`` in a model's folder holds digests (64 bits each) of their ids and prompts, those of the models
and the samples that it was made from among them. A model without one is of unknown past.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ConfigError
from cluster.run_folder import write_atomically

_FILE = "learned_problems.json"


def write_learned(model: Path, hashes: Iterable[str]) -> None:
    """Replaces what is said of the model in this folder."""
    write_atomically(model / _FILE, json.dumps({"hashes": sorted(hashes)}))


def read_learned(model: Path) -> frozenset[str]:
    """The digests; none where nothing is known. Raises ConfigError for a file of another form."""
    path = model / _FILE
    if not path.is_file():
        return frozenset()
    try:
        return frozenset(json.loads(path.read_text())["hashes"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is not a list of hashes of problems; take it away, and nothing is known") from None
