"""What a process of torch's is started with."""

from __future__ import annotations


def torch_environment(threads: int) -> dict[str, str]:
    """Environment of a process that computes with torch, set before its Python starts (Ray: ``runtime_env``).

    What a training step frees, glibc's allocator gives back to the system above 64 MiB at the most; the next step has
    its pages faulted in and zeroed anew. Up to 1 GiB is kept instead. To say how much is kept is to fix from which size
    on a block is mapped by itself, too: 32 MiB, where glibc's own choice ends. Allocators and systems without such
    variables take no notice.

    Args:
        threads: OpenMP threads, at least 1; two processes that each start one for every core collapse.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
