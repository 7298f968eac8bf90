"""Where measurements go: names of Prometheus and the Grafana board, and Weights & Biases where it is asked for."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.metrics import prometheus_name
from cluster.recipe import load_recipe
from cluster.wandb_sink import WandbSink

ROOT = Path(__file__).resolve().parents[2]


def config(**wandb: Any) -> RunConfig:
    return load_recipe(ROOT / "recipes" / "quickstart.yaml", [f"wandb={json.dumps({'project': 'p', **wandb})}"])


class FakeWandb:
    """Takes down what it is told."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.logged: list[dict[str, float]] = []
        self.metrics: list[tuple[str, Any]] = []
        self.finished = False

    def init(self, **settings: Any) -> Any:
        self.settings = settings
        return SimpleNamespace(log=self.logged.append, define_metric=self._define, finish=self._finish)

    def _define(self, name: str, step_metric: Any = None) -> None:
        self.metrics.append((name, step_metric))

    def _finish(self) -> None:
        self.finished = True


def test_each_stage_is_logged_over_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_API_KEY", "planted-key")
    sink = WandbSink(config(mode="offline"), tmp_path)
    sink.log("base", 7, {"sft/loss": 2.0})
    sink.log("ppo", 1, {"rollout/reward": 0.5})
    sink.log("ppo", 2, {"rollout/reward": 0.75})
    sink.close()
    assert fake.logged == [
        {"base/sft/loss": 2.0, "base/step": 7},
        {"ppo/rollout/reward": 0.5, "ppo/step": 1},
        {"ppo/rollout/reward": 0.75, "ppo/step": 2},
    ]
    assert ("ppo/*", "ppo/step") in fake.metrics
    assert len(fake.metrics) == 4
    assert fake.finished
    assert (fake.settings["id"], fake.settings["resume"], fake.settings["mode"]) == ("quickstart", "allow", "offline")
    assert "planted-key" not in repr(fake.settings)


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb: the package is not installed; pip install wandb"):
        WandbSink(config(), tmp_path)


def documented() -> set[str]:
    """Names of docs/metrics.md; a row such as `share/trainer/busy`, `/starved` names several."""
    names: set[str] = set()
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            first, *more = re.findall(r"`([^`]+)`", line.split("|")[1])
            names |= {first} | {first.rsplit("/", 1)[0] + name for name in more}
    return names


def test_every_curve_of_the_board_is_a_documented_metric() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "crucible.json").read_text())
    shown = {re.match(r"\w+", target["expr"])[0] for panel in board["panels"] for target in panel["targets"]}
    known = {f"ray_{prometheus_name(name)}" for name in documented()}
    assert shown - known == set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(cells) == len(board["panels"])


def test_names_are_what_prometheus_takes() -> None:
    assert prometheus_name("evaluate/pass@1.greedy") == "crucible_evaluate_pass_at_1_greedy"
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", prometheus_name(name)) for name in documented())
