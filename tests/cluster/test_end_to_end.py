"""The main job on real parts, small: killed with SIGKILL in the middle, started again, and looked at from all sides."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from actors.weights import SHARED_MEMORY
from cluster.learned_problems import read_learned
from cluster.ledger import surviving_steps
from cluster.run_folder import digest, read_lines
from learner.checkpoint import weights_fingerprint
from learner.models import load_causal_lm

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

CRUCIBLE = [str(Path(sys.executable).with_name("crucible"))]
NUM_STEPS = 10
PROMPTS_PER_STEP = 8
RAY_AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}  # they give a lost raylet a minute before they end


def recipe(folder: Path) -> dict:
    problems = {"spec": "synthetic:split=test,count=12,depth=2,seed=12"}
    evaluate = {"kind": "evaluate", "problems": [problems], "samples": 2}
    critic = {"warmup_rollouts": 32, "warmup_steps": 4}
    return {
        "name": "small",
        "folder": str(folder),
        "generators": {"count": 2, "engine": {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16}},
        "stages": [
            {"kind": "sft", "name": "base", "corpus": {"count": 3000}, "train": {"max_steps": 40}},
            {**evaluate, "name": "before", "model": "stage:base"},
            {
                "kind": "ppo",
                "name": "ppo",
                "policy": "stage:base",
                "problems": [{"spec": "synthetic:split=train,count=200,depth=1-2,seed=11"}],
                "prompts_per_step": PROMPTS_PER_STEP,
                "samples_per_prompt": 2,
                "max_staleness": 1,
                "checkpoint_every_steps": 2,
                "learner": {"num_steps": NUM_STEPS, "advantage": {"kind": "gae", "critic": critic}},
            },
            {**evaluate, "name": "after", "model": "stage:ppo", "compare_with": "before"},
        ],
    }


@dataclass(frozen=True)
class Finished:
    """A run that was killed once and went on. ``resumed`` is the output of the command that ended it."""

    root: Path
    recipe: Path
    resumed: str
    steps_at_kill: int
    agents: list[psutil.Process]


def descendants(pid: int) -> dict[psutil.Process, str]:
    """All that a process has started, with its name. One that ends while it is looked at is left out."""
    named: dict[psutil.Process, str] = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            named[process] = process.name()
    return named


def wait_for_ends(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live after ``seconds``; a zombie waits for its parent only."""
    deadline = time.monotonic() + seconds
    alive = processes
    while alive and time.monotonic() < deadline:
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.2)
    return alive


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe(folder)))
    root = folder / "small"
    steps = root / "stages" / "ppo" / "steps"

    def num_steps() -> int:
        return sum(len(read_lines(path)) for path in steps.glob("L*.jsonl"))

    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen([*CRUCIBLE, "run", str(path)], stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 500
    while num_steps() < 3:
        assert first.poll() is None, (folder / "first.log").read_text()
        assert time.monotonic() < deadline, (folder / "first.log").read_text()
        time.sleep(0.1)
    started = descendants(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    agents = [process for process, name in started.items() if name in RAY_AGENTS]
    others = [process for process in started if process not in agents]
    assert wait_for_ends(others, 30.0) == [], "processes outlived a driver that was killed"
    steps_at_kill = num_steps()
    second = subprocess.run([*CRUCIBLE, "run", str(path)], capture_output=True, text=True, timeout=600, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    return Finished(root, path, second.stdout, steps_at_kill, agents)


def test_a_killed_run_goes_on_to_the_same_number_of_steps(finished: Finished) -> None:
    steps = surviving_steps(finished.root / "stages" / "ppo" / "ledger.jsonl")
    assert [step.version.step for step in steps] == list(range(1, NUM_STEPS + 1))
    assert 3 <= finished.steps_at_kill < NUM_STEPS
    assert len({step.version.lineage for step in steps}) == 2


def test_nothing_is_trained_twice_in_the_surviving_lineage(finished: Finished) -> None:
    steps = surviving_steps(finished.root / "stages" / "ppo" / "ledger.jsonl")
    trained = [identity for step in steps for identity in step.trained]
    offered = [identity for step in steps for identity in [*step.trained, *step.dropped]]
    assert len(trained) == len(set(trained)) > 0
    assert len(offered) == len(set(offered)) == NUM_STEPS * PROMPTS_PER_STEP * 2


def test_the_ledger_says_that_the_policy_began_with_the_base_models_weights(finished: Finished) -> None:
    records = read_lines(finished.root / "stages" / "ppo" / "ledger.jsonl")
    begun_with = next(record["initial_weights"] for record in records if record["kind"] == "start")
    base = load_causal_lm(finished.root / "stages" / "base" / "model")
    assert begun_with == weights_fingerprint(base)


def test_verify_finds_nothing_lost_nothing_repeated_and_the_bound_kept(finished: Finished) -> None:
    verified = subprocess.run([*CRUCIBLE, "verify", str(finished.root)], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "0 lost, 0 repeated, bound never broken" in verified.stdout
    assert f"{NUM_STEPS} steps; {NUM_STEPS * PROMPTS_PER_STEP} groups issued" in verified.stdout


def test_training_and_execution_overlap_generation(finished: Finished) -> None:
    spans = read_lines(finished.root / "timeline.jsonl")

    def overlap(one: str, other: str) -> bool:
        first = [span for span in spans if span["what"] == one]
        second = [span for span in spans if span["what"] == other]
        return any(a["start"] < b["end"] and b["start"] < a["end"] for a in first for b in second)

    assert overlap("execute", "generate")
    assert overlap("train", "generate")


def test_the_checkpoint_loads_as_a_hugging_face_model_and_is_not_the_base(finished: Finished) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished.root / "stages" / "ppo" / "model")
    base = AutoModelForCausalLM.from_pretrained(finished.root / "stages" / "base" / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished.root / "stages" / "ppo" / "model")
    assert len(tokenizer) == model.config.vocab_size
    text = 'def f(xs):\n    """keep it."""\n    return xs\n'
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    changed = [
        name for (name, new), (_, old) in zip(model.named_parameters(), base.named_parameters(), strict=True)
        if not torch.equal(new, old)
    ]  # fmt: skip
    assert changed


def test_the_person_at_the_terminal_is_told_what_came_of_it(finished: Finished) -> None:
    assert "goes on from L" in finished.resumed
    for expected in ("before", "after", "sampled pass@1", "checkpoint", "report.html"):
        assert expected in finished.resumed
    report = (finished.root / "report.html").read_text()
    for curve in ("pass_rate", "kl_reference", "explained_variance_kept"):
        assert curve in report
    assert list((finished.root / "tensorboard").glob("events*"))
    figures = json.loads((finished.root / "stages" / "after" / "manifest.json").read_text())["figures"]
    assert figures["sampled_pass_at_1"]["num_problems"] == 12
    assert figures["sampled_pass_at_1_infrastructure_errors"] == 0
    assert figures["difference"]["sampled_pass_at_1"]["num_problems"] == 12


def test_each_manifest_says_what_went_into_the_stage(finished: Finished) -> None:
    manifests = {
        path.parent.name: json.loads(path.read_text()) for path in finished.root.glob("stages/*/manifest.json")
    }
    assert manifests["base"]["inputs"] == {}
    assert {key.partition(":")[0] for key in manifests["after"]["inputs"]} == {
        "model", "compare_with", "weights", "problems"
    }  # fmt: skip
    assert manifests["ppo"]["inputs"]["weights:stage:base"] == manifests["base"]["weights"]
    assert (
        manifests["after"]["inputs"]["weights:stage:ppo"] == manifests["ppo"]["weights"] != manifests["base"]["weights"]
    )
    assert manifests["after"]["inputs"]["compare_with:before"] == digest(manifests["before"])
    same_problems = next(key for key in manifests["before"]["inputs"] if key.startswith("problems:"))
    assert manifests["before"]["inputs"][same_problems] == manifests["after"]["inputs"][same_problems]


def test_the_models_that_are_taken_home_say_what_they_have_learned_from(finished: Finished) -> None:
    base, ppo = (read_learned(finished.root / "stages" / name / "model") for name in ("base", "ppo"))
    assert base <= ppo
    assert len(ppo - base) == 2 * 200  # ids and prompts of the policy's problems


def test_a_finished_run_is_not_run_again(finished: Finished) -> None:
    begun = time.monotonic()
    again = subprocess.run([*CRUCIBLE, "run", str(finished.recipe)], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "checkpoint" in again.stdout
    assert time.monotonic() - begun < 30
    lineages = [line["lineage"] for line in read_lines(finished.root / "lineages.jsonl")]
    assert len(lineages) == len(set(lineages)) == 5  # four stages, one of them begun twice


def test_a_run_with_a_changed_config_is_refused(finished: Finished) -> None:
    command = [*CRUCIBLE, "run", str(finished.recipe), "--set", f"stages.ppo.learner.num_steps={NUM_STEPS + 1}"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert "started with another config" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_nothing_of_the_killed_run_is_left_after_ray_has_noticed(finished: Finished) -> None:
    assert wait_for_ends(finished.agents, 120.0) == []


def test_no_published_weights_are_left(finished: Finished) -> None:
    assert list(SHARED_MEMORY.glob(f"crucible-weights-{finished.root.name}-*")) == []
