"""The stand-in of the controller's tests promises what the generator promises."""

from __future__ import annotations

import asyncio
import inspect

import numpy as np
import pytest

from actors.errors import EngineDiedError, WeightPhaseError
from actors.generator import GenerationRequest, Generator
from learner.trajectory import FinishReason
from problems.identity import TrajectoryId, WeightsVersion
from tests.stand_in_engine import StandInConfig, StandInGenerator

_V0, _V1 = WeightsVersion(0, 0), WeightsVersion(0, 1)


def _request(index: int, max_tokens: int = 200) -> GenerationRequest:
    return GenerationRequest(
        TrajectoryId("r", "ppo", 0, f"p{index}", 0), np.arange(index + 1, dtype=np.int32), max_tokens
    )


async def _started(config: StandInConfig) -> StandInGenerator:
    generator = StandInGenerator(config)
    await generator.start_engine("nowhere", _V0)
    return generator


def test_the_stand_in_has_the_generators_methods_and_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in members if not name.startswith("_")}

    assert public(StandInGenerator) == public(Generator)


async def test_a_completion_depends_on_prompt_and_seed_alone() -> None:
    fast, slow = await _started(StandInConfig()), await _started(StandInConfig(tokens_per_s=5000))
    for index in range(5):
        one, other = await fast.generate(_request(index)), await slow.generate(_request(index))
        np.testing.assert_array_equal(one.turn.completion_ids, other.turn.completion_ids)
        np.testing.assert_array_equal(one.turn.behaviour_logprobs, other.turn.behaviour_logprobs)


async def test_a_request_in_flight_over_a_push_has_two_spans() -> None:
    generator = await _started(StandInConfig(tokens_per_s=1000, mean_tokens=1e6))
    sampling = asyncio.create_task(generator.generate(_request(0)))
    await asyncio.sleep(0.05)
    await generator.start(_V1)
    await generator.update({"version": "L0.S1"})
    await generator.finish(_V1)
    turn = (await sampling).turn
    assert [span.version for span in turn.spans] == [_V0, _V1]
    assert turn.finish_reason is FinishReason.LENGTH
    assert generator.stats().paused_s > 0


async def test_a_wrong_ticket_is_refused_and_the_old_version_goes_on() -> None:
    generator = await _started(StandInConfig())
    await generator.start(_V1)
    with pytest.raises(WeightPhaseError):
        await generator.update({"version": "L0.S9"})
    assert (await generator.generate(_request(0))).turn.spans[0].version == _V0


async def test_abort_returns_what_there_is_and_death_is_named() -> None:
    generator = await _started(StandInConfig(tokens_per_s=500, mean_tokens=1e6, fail_after=1))
    sampling = asyncio.create_task(generator.generate(_request(0)))
    await asyncio.sleep(0.05)
    await generator.abort([_request(0).id])
    turn = (await sampling).turn
    assert turn.finish_reason is FinishReason.ABORTED
    assert 0 < len(turn.completion_ids) < 200
    with pytest.raises(EngineDiedError):
        await generator.generate(_request(1))
