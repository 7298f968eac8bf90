"""The recipe of RLCF with its own base model, and little training: the discriminator is refreshed once on the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.run_folder import read_lines

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))
RECIPE = Path(__file__).parents[2] / "recipes" / "rlcf.yaml"
SMALL = {
    "stages.after.problems": '[{spec: "synthetic:split=test,count=24,depth=2-3,seed=12,language=java"}]',
    "stages.after.samples": "1",
    "stages.discriminator.problems": '[{spec: "synthetic:split=train,count=150,depth=2-3,seed=21,language=java"}]',
    "stages.ppo.problems": '[{spec: "synthetic:split=train,count=200,depth=2-3,seed=11,language=java"}]',
    "stages.ppo.prompts_per_step": "16",
    "stages.ppo.learner.num_steps": "4",
    "stages.ppo.learner.advantage.critic.warmup_rollouts": "64",
    "stages.ppo.learner.advantage.critic.warmup_steps": "5",
    "stages.ppo.rewards": '[{kind: compiler}, {kind: comparison, model: "stage:discriminator", '
    "refresh_every_steps: 2}, {kind: length_cut, value: -1.0}]",
}


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_the_base_model_fails_in_many_ways_and_the_recipe_runs_to_its_end_without_any_test_in_the_reward(
    tmp_path: Path,
) -> None:
    overrides = [part for field, value in SMALL.items() for part in ("--set", f"{field}={value}")]
    command = [CRUCIBLE, "run", str(RECIPE), "--name", "small", "--folder", str(tmp_path), *overrides]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages = tmp_path / "small" / "stages"
    figures = {path.parent.name: json.loads(path.read_text())["figures"] for path in stages.glob("*/manifest.json")}

    before = figures["before"]["sampled"]
    assert before["compiles"]["mean"] >= before["executes"]["mean"]
    refused = before["compile_errors"]
    print("refused programs of the base model by class:", refused)
    assert sum(refused.values()) >= 50
    assert len(refused) >= 5
    assert max(refused.values()) <= 0.35 * sum(refused.values())
    assert figures["discriminator"]["num_pairs"] + figures["discriminator"]["num_held_out_pairs"] > 0
    steps = [line for line in read_lines(tmp_path / "small" / "metrics.jsonl") if line["stage"] == "ppo"]
    assert [step["step"] for step in steps if "compiler/compiles" in step] == [1, 2, 3, 4]
    assert all(step["rollout/executions_per_s"] == 0 for step in steps if "rollout/executions_per_s" in step)
    assert list((stages / "ppo" / "discriminators").glob("step-*/discriminator.json"))
    assert (tmp_path / "small" / "report.html").is_file()
