"""What a stage begins with: the weights that the driver itself publishes, with generators as plain objects."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from actors.weights import ShmSender, verify_published
from cluster.config import RunConfig
from cluster.context import RunContext
from cluster.errors import ActorError
from cluster.run_folder import RunFolder
from cluster.stage_config import EvaluateStage, ProblemSource
from problems.identity import WeightsVersion
from tests.cluster.fake_actors import Cluster
from tests.stand_in_engine import StandInConfig, StandInGenerator

L0, L1 = WeightsVersion(0, 0), WeightsVersion(1, 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4}))
    save_file({"weight": torch.ones(4)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    monkeypatch.setattr("cluster.context.of_this_node", lambda ticket: ticket)
    monkeypatch.setattr("cluster.context.ShmSender", lambda run: ShmSender(run, root=tmp_path))
    return Cluster(monkeypatch, lambda _: StandInGenerator(StandInConfig()))


def context_of(tmp_path: Path, **engine: Any) -> RunContext:
    stage = EvaluateStage(name="e", model="m", problems=(ProblemSource(spec="s"),))
    generators = {"count": 1, "engine": {"weight_transport": "shm"} | engine}
    config = RunConfig.model_validate({"name": "run", "generators": generators, "stages": [stage.model_dump()]})
    return RunContext(config, RunFolder(tmp_path / "run"), Mock(), Mock())


async def test_a_stage_whose_model_has_the_served_shape_begins_by_a_push(
    cluster: Cluster, model: Path, tmp_path: Path
) -> None:
    context = context_of(tmp_path)
    await context.serve(model, L0)
    await context.serve(model, L1)
    (engine,) = cluster.handles
    assert engine.actor.version == L1
    await context.close()


async def test_weights_that_the_driver_cannot_publish_are_one_sentence(
    cluster: Cluster, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(tmp_path)
    await context.serve(model, L0)
    full = shutil._ntuple_diskusage(100, 100, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ActorError, match=r"^the driver could not publish .*model: .* do not fit .*0 MiB are free"):
        await context.serve(model, L1)
    # After a loss of the trainer its checkpoint is pushed next, from its own node: the run goes on.
    await context.serve(model, L1, others_follow=True)
    (engine,) = cluster.handles
    assert engine.actor.version == L0
    await context.close()


@pytest.mark.usefixtures("cluster")
async def test_where_nobody_serves_one_that_joins_finds_the_stages_weights(model: Path, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    await context.serve(model, L0)
    context.generators.roster.lose(context.generators.roster.serving[0], "its node is gone")
    await context.serve(model, L1, others_follow=True)
    weights = context.generators._weights
    assert weights is not None
    assert verify_published(weights.ticket or {}).version == L1
    await context.close()


@pytest.mark.usefixtures("cluster")
async def test_the_driver_goes_on_while_it_publishes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(tmp_path)
    await context.serve(model, L0)
    publish = ShmSender.publish

    def slowly(self: ShmSender, *arguments: Any) -> dict[str, str]:
        time.sleep(0.3)
        return publish(self, *arguments)

    monkeypatch.setattr(ShmSender, "publish", slowly)
    serving = asyncio.create_task(context.serve(model, L1))
    looks = 0
    while not serving.done():
        await asyncio.sleep(0.02)
        looks += 1
    await serving
    assert looks >= 5
    await context.close()
