"""What needs no engine: settings, environment, order of calls, the owner's end."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pydantic import ValidationError

from actors import errors
from actors.busy_clock import BusyClock
from actors.config import GeneratorConfig
from actors.engine import engine_environment
from actors.errors import EngineUnavailableError
from actors.generator import GenerationRequest, Generator
from problems.identity import TrajectoryId


def test_a_cpu_engine_is_eager_and_prefills_its_longest_prompt_in_one_step() -> None:
    config = GeneratorConfig(max_model_len=4096)
    assert config.eager
    assert config.step_tokens == 4096
    assert config.kv_cache_bytes_or_default == 256 << 20


def test_a_gpu_engine_leaves_memory_and_steps_to_vllm() -> None:
    config = GeneratorConfig(device="cuda", tensor_parallel_size=2)
    assert not config.eager
    assert config.step_tokens is None
    assert config.kv_cache_bytes_or_default is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"max_num_batched_tokens": 100}, "max_num_batched_tokens"),
        ({"top_p": 0.9}, "top_p"),
        ({"kv": "drop"}, "kv"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        GeneratorConfig.model_validate(settings)


def test_only_a_cpu_engine_is_held_to_one_thread() -> None:
    assert engine_environment("cpu")["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in engine_environment("cuda")
    with pytest.raises(ValueError, match="'tpu'"):
        engine_environment("tpu")


async def test_a_generator_without_an_engine_says_so() -> None:
    generator = Generator(GeneratorConfig())
    request = GenerationRequest(TrajectoryId("r", "s", 0, "p", 0), np.array([1], np.int32), 1)
    with pytest.raises(EngineUnavailableError, match="start it first"):
        await generator.generate(request)
    assert generator.stats().requests_running == 0
    await generator.shutdown()


def test_errors_survive_a_pickle() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 5
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what happened")))
        assert type(again) is kind
        assert str(again) == "what happened"


def test_a_paused_second_is_not_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # seconds  0 ... 1 ...... 3 ....... 6 ..... 8 ...... 12
    #             enter     pause    resume   leave     read
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = BusyClock()
    for at, act in ((1.0, clock.enter), (3.0, clock.pause), (6.0, clock.resume), (8.0, clock.leave)):
        now = at
        act()
    now = 12.0
    assert clock.read() == (4.0, 3.0, 12.0)


def test_a_child_ends_when_its_owner_is_killed() -> None:
    child = "from actors.owner import end_with_owner; end_with_owner(); import time; time.sleep(60)"
    owner = (
        "import subprocess, sys, time; from actors.owner import own_children; own_children()\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child_pid = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _wait_until_gone(child_pid)


def _wait_until_gone(pid: int) -> None:
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return  # ended; whoever inherited it has not fetched it yet
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlives its owner")
