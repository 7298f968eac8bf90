"""A real engine, untied embeddings, KV cache kept at a push, stop strings. The last test kills the engine's process."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from actors.errors import EngineDiedError
from learner.trajectory import FinishReason

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


def _save_byte_tokenizer(folder: Path) -> None:
    """Byte-level: ids 0-255 are bytes, and each of these words is a token of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"w{index}": index for index in range(256, 300)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(start_tiny_engine: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    folder = tmp_path_factory.mktemp("with-tokenizer")
    _save_byte_tokenizer(folder)
    engine = await start_tiny_engine(tied=False, folder=folder, kv="keep", stop_strings=True)
    yield engine
    await engine.generator.shutdown()
    engine.sender.close()


async def test_no_prefix_of_old_weights_is_reused_after_a_push(tiny: Any) -> None:
    requests = [tiny.request(index, num_prompt=600) for index in range(4)]
    for push in range(3):
        if push:
            await tiny.push(tiny.step())
        for _ in range(2):  # the second time its prefix is cached
            for result in await tiny.sample(requests):
                assert tiny.is_greedy(result).all()


async def test_requests_in_flight_keep_their_cache_and_say_which_weights_sampled_what(tiny: Any) -> None:
    old_version, old = tiny.version, copy.deepcopy(tiny.model)
    ticket = tiny.step()
    sampling = asyncio.gather(*(tiny.generator.generate(tiny.request(index, 400, 1.0)) for index in range(6)))
    await tiny.wait_until_each_has(20)
    await tiny.push(ticket)
    for result in await sampling:
        first, second = result.turn.spans
        assert (first.version, second.version) == (old_version, tiny.version)
        assert 0 < first.end == second.start < second.end == len(result.turn.completion_ids) == 400
        recorded, by_old = result.turn.behaviour_logprobs, tiny.logprobs(result, model=old)
        np.testing.assert_allclose(recorded[: first.end], by_old[: first.end], rtol=0, atol=1e-5)


async def test_a_stop_string_ends_a_completion_and_is_not_part_of_it(tiny: Any) -> None:
    (whole,) = await tiny.sample([tiny.request(3, 40, 1.0)])
    pieces = tiny.generator._token_bytes.pieces(whole.turn.completion_ids.tolist())
    at = next(i for i in range(3, 39) if all(piece.isascii() for piece in pieces[i : i + 2]))
    stop = b"".join(pieces[at : at + 2]).decode()
    (result,) = await tiny.sample([tiny.request(3, 40, 1.0, stop=(stop,))])
    assert result.turn.finish_reason is FinishReason.STOP
    np.testing.assert_array_equal(result.turn.completion_ids, whole.turn.completion_ids[:at])
    np.testing.assert_array_equal(result.turn.behaviour_logprobs, whole.turn.behaviour_logprobs[:at])
    assert result.turn.spans[-1].end == at


async def test_a_killed_engine_ends_its_requests_with_a_named_error(tiny: Any, child_processes: Any) -> None:
    sampling = asyncio.create_task(tiny.generator.generate(tiny.request(0, 700)))
    await tiny.wait_until_each_has(10)
    (engine,) = child_processes()
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(EngineDiedError):
        await sampling
    with pytest.raises(EngineDiedError):
        await tiny.generator.generate(tiny.request(1))
    with pytest.raises(EngineDiedError):
        await tiny.generator.check_health()
    await tiny.generator.shutdown()
    assert child_processes() == []
