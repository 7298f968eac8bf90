"""The environment of torch's processes, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from learner.environment import torch_environment

_ROUNDS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def one_round():
    blocks = [libc.malloc(16 << 20) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in blocks:
        libc.free(block)
one_round()
one_round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    one_round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_PAGES_A_ROUND = (8 * 16 << 20) // 4096


def _answer(code: str, environment: dict[str, str]) -> int:
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are those of glibc's allocator")
def test_what_a_step_frees_is_kept_for_the_next() -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    assert _answer(_ROUNDS, bare | torch_environment(1)) < 100
    assert _answer(_ROUNDS, bare) > 4 * _PAGES_A_ROUND  # what it is there for: five rounds, each faulted in anew


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_computes_with_as_many_threads_as_are_asked_for(threads: int) -> None:
    assert _answer("import torch; print(torch.get_num_threads())", dict(os.environ) | torch_environment(threads)) == (
        threads
    )
