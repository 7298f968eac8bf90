"""Where measurements go: JSON lines, TensorBoard, Ray's metrics and the panel, under the names of docs/metrics.md."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorboardX import SummaryWriter

from cluster.run_folder import RunFolder
from cluster.wandb_sink import WandbSink


@dataclass(frozen=True, slots=True)
class Span:
    """``who`` did ``what`` from ``start`` to ``end`` (seconds since the epoch)."""

    who: str
    what: str
    start: float
    end: float


@dataclass(slots=True)
class Latest:
    """The last value of each metric of a stage; its manifest is made of them."""

    values: dict[str, float] = field(default_factory=dict)


class Metrics:
    """One writer for a run. Not thread-safe: the driver's event loop owns it."""

    def __init__(self, folder: RunFolder, wandb: WandbSink | None = None) -> None:
        self._wandb = wandb
        self.lineage = -1  # of the stage that runs now
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._spans = folder.timeline.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder.tensorboard), flush_secs=5, write_to_disk=True)
        self._gauges: dict[str, Any] = {}
        self.latest: dict[str, Latest] = defaultdict(Latest)

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Records ``values`` of one step of one stage. Values that are not finite are written as null, not hidden."""
        kept = {name: float(value) for name, value in values.items()}
        record = {"time": time.time(), "stage": stage, "lineage": self.lineage, "step": step}
        record |= {name: value if math.isfinite(value) else None for name, value in kept.items()}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._spans.flush()
        if self._wandb is not None:
            self._wandb.log(stage, step, kept)
        latest = self.latest[stage]
        for name, value in kept.items():
            latest.values[name] = value
            self._board.add_scalar(f"{stage}/{name}", value, step)
            self._export(stage, name, value)

    def _export(self, stage: str, name: str, value: float) -> None:
        """To Ray's metrics, so that the dashboard and Prometheus see it as ``ray_crucible_<name>``."""
        from ray.util.metrics import Gauge

        key = prometheus_name(name)
        if key not in self._gauges:
            self._gauges[key] = Gauge(key, description=name, tag_keys=("stage",))
        self._gauges[key].set(value, {"stage": stage})

    def span(self, span: Span) -> None:
        """Adds one span to the timeline."""
        self._spans.write(json.dumps({"who": span.who, "what": span.what, "start": span.start, "end": span.end}) + "\n")

    def close(self) -> None:
        """Flushes and closes all files."""
        if self._wandb is not None:
            self._wandb.close()
        self._board.close()
        self._file.close()
        self._spans.close()


def prometheus_name(name: str) -> str:
    """Ray puts ``ray_`` before it."""
    return "crucible_" + name.replace("/", "_").replace(".", "_").replace("@", "_at_")
