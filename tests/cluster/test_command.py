"""What a person gets who asks for something that cannot be: one sentence, an exit code, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"


def crucible(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CRUCIBLE, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=120, check=False
    )


def one_sentence(process: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in process.stdout + process.stderr
    assert process.stderr.startswith("crucible: ")
    assert process.stderr.count("\n") == 1
    return process.stderr


def test_an_unknown_field_ends_the_command_before_anything_is_written(tmp_path: Path) -> None:
    process = crucible("run", str(RECIPE), "--folder", str(tmp_path / "runs"), "--set", "generators.cuont=2")
    assert process.returncode == 2
    assert "generators.cuont: no such field" in one_sentence(process)
    assert not (tmp_path / "runs").exists()


def test_the_stack_trace_is_shown_where_it_is_asked_for() -> None:
    process = crucible("run", "absent.yaml", "--debug")
    assert process.returncode != 0
    assert "Traceback" in process.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file is in the way")
    process = crucible("run", str(RECIPE), "--folder", str(tmp_path / "runs"))
    assert process.returncode == 3
    assert "cannot be written" in one_sentence(process)


def test_a_missing_problem_file_is_found_before_the_first_stage(tmp_path: Path) -> None:
    process = crucible(
        "run", str(RECIPE), "--folder", str(tmp_path), "--set", "stages.after.problems.0.spec=humaneval:absent.jsonl"
    )
    assert process.returncode == 2
    assert "absent.jsonl" in one_sentence(process)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_evaluation_on_what_is_learned_from_is_refused_before_anything_starts(tmp_path: Path, command: str) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    (trains,) = [stage for stage in recipe["stages"] if stage["kind"] == "ppo"]
    leak = f"stages.after.problems.0.spec={trains['problems'][0]['spec']}"
    process = crucible(command, str(RECIPE), "--folder", str(tmp_path / "runs"), "--set", leak)
    assert process.returncode == 2
    assert "stages.after evaluates on problems that stages." in one_sentence(process)
    assert not list(tmp_path.glob("runs/*/stages/*/*"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The quick start with 100 problems to train on, in a folder of its own."""
    recipe = yaml.safe_load(RECIPE.read_text())
    (train,) = (stage for stage in recipe["stages"] if stage["kind"] == "ppo")
    train["problems"] = [{"spec": "synthetic:split=train,count=100,depth=2-3,seed=11"}]
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe | {"folder": str(tmp_path)}))
    return path


def test_too_little_memory_is_said_before_anything_starts(small: Path) -> None:
    process = crucible("run", str(small), "--set", "ray.memory_reserve_gb=100000")
    assert process.returncode == 4
    assert "of memory" in one_sentence(process)


def test_a_cluster_that_is_not_there_is_named(small: Path) -> None:
    process = crucible("run", str(small), "--set", "ray.address=127.0.0.1:1")
    assert process.returncode == 4
    assert "127.0.0.1:1 could not be joined" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.vllm
def test_a_missing_engine_is_told_before_any_training(small: Path, tmp_path: Path) -> None:
    missing = f"unix://{tmp_path}/none.sock"
    process = crucible("run", str(small), "--set", "executors.sandbox.backend=docker", DOCKER_HOST=missing)
    assert process.returncode == 5
    assert "executor-0 could not open its sandbox" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "quickstart" / "stages" / "base" / "manifest.json").exists()


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("how", "on_sigint"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),  # as nohup and a script's & leave it
    ],
)
def test_an_interrupted_run_ends_in_order_and_leaves_nothing_running(
    tmp_path: Path, how: signal.Signals, on_sigint: signal.Handlers
) -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["stages"] = recipe["stages"][:2]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"folder": str(tmp_path)}))
    process = subprocess.Popen(
        [CRUCIBLE, "run", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, on_sigint),
    )
    metrics = tmp_path / "quickstart" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and metrics.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()  # a test that fails leaves no run behind
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []


def test_execute_names_the_unknown_problem_and_leaves_the_output_alone(tmp_path: Path) -> None:
    problems, programs, output = (tmp_path / name for name in ("problems.jsonl", "programs.jsonl", "out.jsonl"))
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'def f(x):\n    """f"""\n',
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n",
        "entry_point": "f",
    }
    problems.write_text(json.dumps(row) + "\n")
    programs.write_text('{"task_id": "HumanEval/9", "completion": ""}\n')
    output.write_text("was here\n")
    process = crucible("execute", "--problems", f"humaneval:{problems}", "--programs", str(programs), "-o", str(output))
    assert process.returncode == 1
    assert "line 1: unknown problem id 'HumanEval/9'" in one_sentence(process)
    assert output.read_text() == "was here\n"
