"""Measurements to Weights & Biases, where it is installed and the recipe asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.config import RunConfig
from cluster.errors import ConfigError


class WandbSink:
    """One W&B run for one run of ours; a run that goes on goes on there too."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        """Raises ConfigError if the package is missing. Its key is WANDB_API_KEY of the driver's environment."""
        assert config.wandb is not None, "the recipe names no W&B project"
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise ConfigError(
                "wandb: the package is not installed; pip install wandb, or leave the field out"
            ) from None
        self._run: Any = wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            mode=config.wandb.mode,
            name=config.name,
            id=config.name,
            resume="allow",
            dir=str(folder),
            config=config.model_dump(mode="json"),
        )
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Under ``STAGE/name``, each stage over steps of its own: W&B's own counter must only grow."""
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step})

    def close(self) -> None:
        self._run.finish()
