"""The recipe of process supervision in a small form, with all real parts, from the baseline to the reranker."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.run_folder import read_lines

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))
RECIPE = Path(__file__).parents[2] / "recipes" / "process.yaml"
TRAIN = '[{{spec: "synthetic:split=train,count={count},depth=1-2,seed={seed}"}}]'
TEST = '[{spec: "synthetic:split=test,count=16,depth=2,seed=12"}]'
SMALL = {
    "stages.base.train.max_steps": "250",
    "stages.base.corpus.count": "6000",
    **{f"stages.{name}.problems": TEST for name in ("before", "after-baseline", "after", "best-of-8")},
    "stages.labels.policies": '["stage:base", "stage:baseline@2"]',
    "stages.labels.problems": TRAIN.format(count=60, seed=21),
    "stages.labels.completions": "4",
    "stages.prm.held_out_share": "0.3",
    "stages.baseline.export_steps": "[2]",
    "generators.count": "1",
}
for stage in ("baseline", "supervised"):
    SMALL |= {
        f"stages.{stage}.problems": TRAIN.format(count=200, seed=11),
        f"stages.{stage}.prompts_per_step": "16",
        f"stages.{stage}.learner.num_steps": "3",
        f"stages.{stage}.learner.advantage.critic.warmup_rollouts": "32",
        f"stages.{stage}.learner.advantage.critic.warmup_steps": "4",
    }


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_the_recipe_runs_to_its_end_and_each_stage_takes_what_the_one_before_it_made(tmp_path: Path) -> None:
    overrides = [part for field, value in SMALL.items() for part in ("--set", f"{field}={value}")]
    command = [CRUCIBLE, "run", str(RECIPE), "--name", "small", "--folder", str(tmp_path), *overrides]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "small"
    figures = {path.parent.name: json.loads(path.read_text())["figures"] for path in run.glob("stages/*/manifest.json")}

    rows = pq.read_table(run / "stages" / "labels" / "labels.parquet").to_pylist()
    assert len(rows) == figures["labels"]["num_answers"] > 100
    assert {row["policy"] for row in rows} == {"stage:base", "stage:baseline@2"}
    for row in rows:
        counted = [label for label in row["labels"] if label]
        assert counted == sorted(counted, reverse=True)
        assert row["num_completions"] <= (0 if row["passed"] else 4 * len(counted).bit_length())
    assert 0 < figures["prm"]["held_out_accuracy"] <= 1

    steps = [line for line in read_lines(run / "metrics.jsonl") if line["stage"] == "supervised"]
    assert [step["step"] for step in steps if "process/score" in step] == [1, 2, 3]
    assert all(0 <= step["process/comment_share"] <= 1 for step in steps if "process/score" in step)
    journal = pq.read_table(sorted((run / "stages" / "supervised" / "trajectories").glob("step-*"))[0]).to_pylist()
    paid = [event for row in journal for event in row["events"] if event["term"] == "process"]
    assert paid
    assert all(abs(event["value"]) <= 0.25 for event in paid)
    chosen = figures["best-of-8"]["rerank"]["all"]
    assert chosen["reranked"]["mean"] <= chosen["oracle"]["mean"]
    assert "difference" in figures["after"]
