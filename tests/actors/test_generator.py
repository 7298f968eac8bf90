"""A real engine, tied embeddings, KV cache recomputed at each push. The last tests break the engine on purpose."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
import torch

from actors.errors import WeightPhaseError, WeightsCorruptedError, WeightsLostError, WeightsMissingError
from actors.judging import Judge
from actors.weights import bucketed
from learner.trajectory import FinishReason, VersionSpan
from problems.identity import WeightsVersion

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(start_tiny_engine: Any) -> AsyncIterator[Any]:
    engine = await start_tiny_engine(tied=True)
    yield engine
    await engine.generator.shutdown()
    engine.sender.close()


async def test_greedy_tokens_equal_hugging_faces_after_every_push(tiny: Any) -> None:
    requests = [tiny.request(index) for index in range(8)]
    for push in range(4):
        if push:
            await tiny.push(tiny.step())
        assert tiny.generator.version == tiny.version
        for result in await tiny.sample(requests):
            assert len(result.turn.completion_ids) == 24
            assert tiny.is_greedy(result).all()
            assert result.turn.spans == (VersionSpan(tiny.version, 0, 24),)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_behaviour_logprobs_are_those_of_the_distribution_sampled_from(tiny: Any, temperature: float) -> None:
    results = await tiny.sample([tiny.request(index, temperature=temperature) for index in range(8)])
    assert not all(tiny.is_greedy(result).all() for result in results)
    for result in results:
        expected = tiny.logprobs(result, temperature)
        np.testing.assert_allclose(result.turn.behaviour_logprobs, expected, rtol=0, atol=1e-5)


async def test_a_judge_reads_the_odds_of_two_answers_off_one_sampled_token(tiny: Any) -> None:
    judge = Judge.__new__(Judge)  # with the engine that runs already
    judge._engine, judge._starting, judge._numbers = tiny.generator._engine, asyncio.Lock(), itertools.count()
    judge._answers = (7, 11)
    for index in range(6):
        ids = tiny.request(index).prompt_ids.tolist()
        with torch.no_grad():
            logits = tiny.model(torch.tensor([ids])).logits[0, -1, list(judge._answers)]
        expected = float(logits.softmax(0)[0])
        assert await judge._probability_of_first(ids) == pytest.approx(expected, abs=1e-5)


async def test_a_completion_depends_on_weights_prompt_and_seed_alone(tiny: Any) -> None:
    requests = [tiny.request(index, temperature=1.0, num_prompt=5 + index) for index in range(24)]
    together = await tiny.sample(requests)
    for start in range(20, -1, -4):
        few = await tiny.sample(requests[start : start + 4][::-1])
        for result, other in zip(few[::-1], together[start : start + 4], strict=True):
            np.testing.assert_array_equal(result.turn.completion_ids, other.turn.completion_ids)
            np.testing.assert_array_equal(result.turn.behaviour_logprobs, other.turn.behaviour_logprobs)


async def test_more_prompt_tokens_than_one_step_holds_are_sampled_like_few(tiny: Any) -> None:
    requests = [tiny.request(index, 2, 1.0, num_prompt=700) for index in range(9)]
    together = await tiny.sample(requests)
    alone = await tiny.sample(requests[4:5])
    np.testing.assert_array_equal(together[4].turn.completion_ids, alone[0].turn.completion_ids)


async def test_requests_in_flight_go_on_over_a_push_with_the_new_weights(tiny: Any) -> None:
    # tokens      0 ............ end of the first span ............. 400
    # sampled by  old weights   |  new weights, which also prefill all before
    old_version, old = tiny.version, copy.deepcopy(tiny.model)
    ticket = tiny.step()
    sampling = asyncio.gather(*(tiny.generator.generate(tiny.request(index, 400, 1.0)) for index in range(6)))
    await tiny.wait_until_each_has(20)
    await tiny.push(ticket)
    for result in await sampling:
        first, second = result.turn.spans
        assert (first.version, second.version) == (old_version, tiny.version)
        assert 0 < first.end == second.start < second.end == len(result.turn.completion_ids) == 400
        recorded, by_new = result.turn.behaviour_logprobs, tiny.logprobs(result)
        by_old = tiny.logprobs(result, model=old)
        np.testing.assert_allclose(recorded[: first.end], by_old[: first.end], rtol=0, atol=1e-5)
        np.testing.assert_allclose(recorded[first.end :], by_new[first.end :], rtol=0, atol=1e-5)
        assert np.abs(by_old - by_new).mean() > 0.1


async def test_a_push_of_the_same_weights_changes_no_token(tiny: Any) -> None:
    requests = [tiny.request(index, 200, 1.0) for index in range(6)]
    undisturbed = await tiny.sample(requests)
    tiny.version = tiny.version.next()
    ticket = tiny.publish()
    sampling = asyncio.create_task(tiny.sample(requests))
    await tiny.wait_until_each_has(10)
    await tiny.push(ticket)
    for result, expected in zip(await sampling, undisturbed, strict=True):
        assert len(result.turn.spans) == 2
        np.testing.assert_array_equal(result.turn.completion_ids, expected.turn.completion_ids)


async def test_an_end_of_sequence_id_ends_a_completion_and_is_part_of_it(tiny: Any) -> None:
    (whole,) = await tiny.sample([tiny.request(3)])
    end = int(whole.turn.completion_ids[5])
    cut = int(np.argmax(whole.turn.completion_ids == end)) + 1
    (result,) = await tiny.sample([tiny.request(3, eos_token_ids=(end,))])
    assert result.turn.finish_reason is FinishReason.STOP
    np.testing.assert_array_equal(result.turn.completion_ids, whole.turn.completion_ids[:cut])


async def test_each_completion_of_a_group_is_yielded_the_moment_it_is_finished(tiny: Any) -> None:
    requests = [tiny.request(0, 300), tiny.request(1, 3), tiny.request(2, 60)]
    order = [result.id async for result in tiny.generator.generate_group(requests)]
    assert order == [requests[1].id, requests[2].id, requests[0].id]


async def test_an_aborted_request_is_returned_with_what_it_has(tiny: Any) -> None:
    requests = [tiny.request(index, 600, 1.0) for index in range(3)]
    sampling = asyncio.gather(*(tiny.generator.generate(request) for request in requests))
    await tiny.wait_until_each_has(10)
    await tiny.generator.abort([requests[0].id, requests[2].id])
    aborted, whole, _ = await sampling
    assert aborted.turn.finish_reason is FinishReason.ABORTED
    assert 0 < len(aborted.turn.completion_ids) < 600
    np.testing.assert_allclose(aborted.turn.behaviour_logprobs, tiny.logprobs(aborted), atol=1e-5)
    assert whole.turn.finish_reason is FinishReason.LENGTH
    assert tiny.generator.stats().requests_running == 0


async def test_dropping_a_group_gives_its_requests_up(tiny: Any) -> None:
    async for _ in tiny.generator.generate_group([tiny.request(0, 2), tiny.request(1, 700)]):
        break
    for _ in range(100):
        if tiny.generator.stats().requests_running == 0:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the request still runs")


async def test_a_corrupted_push_is_refused_and_the_old_weights_stay_in_use(tiny: Any) -> None:
    old_version, old = tiny.version, copy.deepcopy(tiny.model)
    ticket = tiny.step()
    bucket = sorted(Path(ticket["folder"]).glob("*.safetensors"))[-1]
    content = bytearray(bucket.read_bytes())
    content[-1] ^= 1
    bucket.write_bytes(bytes(content))
    sampling = asyncio.create_task(tiny.generator.generate(tiny.request(0, 300)))
    await tiny.wait_until_each_has(10)
    await tiny.generator.start(tiny.version)
    with pytest.raises(WeightsCorruptedError, match=bucket.name):
        await tiny.generator.update(ticket)
    refused, tiny.version, tiny.model = tiny.version, old_version, old
    assert tiny.generator.version == old_version != refused
    assert (await sampling).turn.spans == (VersionSpan(old_version, 0, 300),)
    for result in await tiny.sample([tiny.request(index) for index in range(4)]):
        assert tiny.is_greedy(result).all()
    await tiny.push(tiny.step())
    for result in await tiny.sample([tiny.request(index) for index in range(4)]):
        assert tiny.is_greedy(result).all()


async def test_a_retired_version_and_a_foreign_ticket_are_refused(tiny: Any) -> None:
    ticket = tiny.publish()
    await tiny.generator.start(WeightsVersion(0, 99))
    with pytest.raises(WeightPhaseError, match=r"L0\.S99"):
        await tiny.generator.update(ticket)
    tiny.sender.retire(tiny.version)
    await tiny.generator.start(tiny.version)
    with pytest.raises(WeightsMissingError, match="retired"):
        await tiny.generator.update(ticket)
    (result,) = await tiny.sample([tiny.request(0)])
    assert tiny.is_greedy(result).all()


async def test_phases_out_of_order_are_refused_by_name(tiny: Any) -> None:
    with pytest.raises(WeightPhaseError, match="'serving'"):
        await tiny.generator.update({})
    with pytest.raises(WeightPhaseError, match="finish"):
        await tiny.generator.finish(tiny.version)


async def test_requests_that_the_engine_cannot_hold_are_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="exceed max_model_len 768"):
        await tiny.generator.generate(tiny.request(0, 749))
    with pytest.raises(ValueError, match="stop_strings"):
        await tiny.generator.generate(tiny.request(0, stop=("\n",)))
    with pytest.raises(ValueError, match="max_tokens 0"):
        await tiny.generator.generate(tiny.request(0, 0))


async def test_stats_count_tokens_and_seconds(tiny: Any) -> None:
    before = tiny.generator.stats()
    await tiny.sample([tiny.request(index, 50) for index in range(4)])
    after = tiny.generator.stats()
    assert after.tokens_generated - before.tokens_generated == 200
    assert after.requests_finished - before.requests_finished == 4
    assert 0 < after.busy_s - before.busy_s <= after.up_s - before.up_s
    assert after.paused_s > 0


async def test_an_engine_that_hangs_does_not_pass_its_health_check(tiny: Any) -> None:
    """vLLM's own looks at nothing but whether the process has ended."""
    await asyncio.wait_for(tiny.generator.check_health(), 60)
    processes = psutil.Process().children(recursive=True)
    (engine,) = [process for process in processes if "EngineCore" in " ".join([process.name(), *process.cmdline()])]
    engine.suspend()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tiny.generator.check_health(), 1.0)
    finally:
        engine.resume()
    await asyncio.wait_for(tiny.generator.check_health(), 60)
    assert tiny.is_greedy(await tiny.generator.generate(tiny.request(0))).all()


async def test_a_push_without_all_parameters_loses_the_weights_and_says_so(tiny: Any, child_processes: Any) -> None:
    sampling = asyncio.create_task(tiny.generator.generate(tiny.request(0, 700)))
    await tiny.wait_until_each_has(10)
    version = tiny.version.next()
    some = [(name, tensor) for name, tensor in tiny.model.named_parameters() if "layers.1.mlp" not in name]
    ticket = tiny.sender.publish(version, bucketed(some))
    await tiny.generator.start(version)
    await tiny.generator.update(ticket)
    with pytest.raises(WeightsLostError, match=r"layers\.1\.mlp"):
        await tiny.generator.finish(version)
    assert (await sampling).turn.finish_reason is FinishReason.ABORTED
    with pytest.raises(WeightsLostError):
        await tiny.generator.check_health()
    await tiny.generator.shutdown()
    assert child_processes() == []
