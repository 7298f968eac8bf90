"""``crucible execute``: a file of programs against a data set's tests, without Ray."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cluster.json_lines import read_numbered, refuse_unwritable, write_lines
from problems.datasets import index_by_task_id, load_problems
from problems.extraction import extract_program
from problems.problem import Problem
from sandbox import Backend, Executor, Outcome, Profile, Program, SandboxConfig, Verdict, open_executor
from sandbox.judgement import infrastructure_error

CANONICAL = Path("canonical")
"""In place of a file of programs: the data set's own solutions."""
_K = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the file of programs: the line as it stands, and its problem."""

    line: dict[str, Any]
    problem: Problem

    @property
    def program(self) -> Program:
        completion = cast(str, self.line["completion"]).encode("utf-8", "surrogatepass")
        return Program(self.problem.language, extract_program(self.problem, completion).program)


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a file of programs.

    Attributes:
        pass_at_k: k -> estimate, mean over the problems; only those k of which every problem has enough samples.
        num_samples, num_passed: of all lines.
        num_unknown: lines without a verdict (infrastructure errors), left out of the estimates.
    """

    pass_at_k: dict[int, float]
    num_samples: int
    num_passed: int
    num_unknown: int


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Probability that one of ``k`` samples drawn without replacement passes (Chen et al., arXiv 2107.03374, eq. 1).

    1 - C(n - c, k) / C(n, k), exact and unbiased; ``k`` must be at most ``num_samples``.
    """
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def summarise(samples: Sequence[Sample], verdicts: Sequence[Verdict], ks: Sequence[int] = _K) -> Summary:
    """The estimates. A sample whose verdict is not known counts neither as passed nor as failed."""
    known: defaultdict[str, list[bool]] = defaultdict(list)
    num_unknown = 0
    for sample, verdict in zip(samples, verdicts, strict=True):
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            num_unknown += 1
        else:
            known[sample.problem.id].append(verdict.passed)
    enough = [k for k in ks if known and all(len(results) >= k for results in known.values())]
    estimates = {
        k: sum(pass_at_k(len(results), sum(results), k) for results in known.values()) / len(known) for k in enough
    }
    return Summary(estimates, len(samples), sum(verdict.passed for verdict in verdicts), num_unknown)


def canonical_samples(problems: Sequence[Problem]) -> list[Sample]:
    """The data set's own solutions as samples. Raises ValueError if there is none."""
    solved = [problem for problem in problems if problem.reference_completions]
    if not solved:
        raise ValueError("programs: canonical: no problem of this set has a solution")
    return [Sample({"task_id": one.id, "completion": one.reference_completions[0]}, one) for one in solved]


def read_samples(path: Path, problems: Mapping[str | int, Problem]) -> list[Sample]:
    """The file's lines. Raises ValueError naming file and line for what is malformed or of an unknown problem."""
    numbered = read_numbered(path)
    if not numbered:
        raise ValueError(f"{path}: there is no program in it")
    return [_sample(f"{path}, line {number}", line, problems) for number, line in numbered]


def _sample(where: str, text: str, problems: Mapping[str | int, Problem]) -> Sample:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(line, dict):
        raise ValueError(f'{where}: not an object with "task_id" and "completion"')
    fields = cast("dict[str, Any]", line)
    task_id, completion = fields.get("task_id"), fields.get("completion")
    if not isinstance(task_id, str | int) or isinstance(task_id, bool):
        raise ValueError(f"{where}: field task_id is missing, or neither text nor a number")
    if not isinstance(completion, str):
        raise ValueError(f"{where}: field completion is missing or no text")
    if task_id not in problems:
        raise ValueError(f"{where}: unknown problem id {task_id!r}")
    return Sample(fields, problems[task_id])


async def run_samples(executor: Executor, samples: Sequence[Sample], at_once: int) -> list[Verdict]:
    """The verdicts, in order; at most ``at_once`` programs are handed in at a time."""
    gate = asyncio.Semaphore(at_once)

    async def run(sample: Sample) -> Verdict:
        async with gate:
            problem = sample.problem
            suite = problem.suites["main"]
            try:
                return await executor.run(sample.program, suite, problem.limits)
            except ValueError as error:  # of this one, as its limits or its language: the others are not lost for it
                return infrastructure_error(len(suite.cases), str(error))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(sample)) for sample in samples]
    return [task.result() for task in tasks]


def verdict_line(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    """The sample's own fields, and what came of it."""
    details = [case.detail for case in verdict.cases if case.detail]
    details += [f"line {diagnostic.line}: {diagnostic.message}" for diagnostic in verdict.diagnostics]
    return {
        **sample.line,
        "passed": verdict.passed,
        "verdict": verdict.outcome.value,
        "cpu_s": round(verdict.cpu_s, 6),
        "wall_s": round(verdict.wall_s, 6),
        "memory_bytes": verdict.memory_bytes,
        "detail": next(iter([*details, verdict.detail])),
    }


async def _run_all(samples: Sequence[Sample], config: SandboxConfig) -> list[Verdict]:
    executor = await open_executor(config)
    try:
        return await run_samples(executor, samples, at_once=4 * config.slots)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await executor.close()


def execute(
    problems_spec: str,
    programs_path: Path,
    output_path: Path,
    sandbox_config: SandboxConfig,
    k: Sequence[int] = _K,
) -> Summary:
    """Judges every line of ``programs_path`` and writes the lines with their verdicts, in order, to ``output_path``.

    Raises:
        ValueError: bad input; nothing is run and nothing written.
        SandboxError: no sandbox as asked for; nothing written.
    """
    refuse_unwritable(output_path)
    problems = load_problems(problems_spec)
    if programs_path == CANONICAL:
        samples = canonical_samples(problems)
    else:
        samples = read_samples(programs_path, index_by_task_id(problems))
    verdicts = asyncio.run(_run_all(samples, sandbox_config))
    write_lines(output_path, [verdict_line(*pair) for pair in zip(samples, verdicts, strict=True)])
    return summarise(samples, verdicts, k)


def execute_command(
    problems: str, programs: Path, output: Path, *, backend: str = "auto", profile: str = "fast", slots: int = 0
) -> None:
    """The command: ``execute``, and its summary printed. ``slots`` 0 means one for each processor."""
    for name, value, kinds in (("backend", backend, Backend), ("profile", profile, Profile)):
        if value not in list(kinds):
            raise ValueError(f"--{name} is {value!r}, known are {', '.join(kinds)}")
    if slots < 0:
        raise ValueError(f"--slots must not be below zero, is {slots}")
    chosen: dict[str, Any] = {"slots": slots} if slots else {}
    config = SandboxConfig(backend=Backend(backend), profile=Profile(profile), **chosen)
    summary = execute(problems, programs, output, config)
    print(f"{summary.num_passed} of {summary.num_samples} programs passed")
    for k, estimate in summary.pass_at_k.items():
        print(f"pass@{k}: {estimate:.4f}")
    if summary.num_unknown:
        print(f"{summary.num_unknown} without a verdict (infrastructure errors), left out of pass@k")
    print(f"verdicts: {output}")
