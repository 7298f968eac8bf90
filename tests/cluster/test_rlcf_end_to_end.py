"""RLCF on real parts: the recipe with its own base model and little training, and a judge model on its own engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.comparison import JudgeTermConfig, comparable
from actors.judging import answer_tokens
from cluster.inputs import problems_of
from cluster.journal import read_journal
from cluster.run_folder import read_lines
from cluster.stage_config import ProblemSource

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


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_a_judge_pays_what_its_model_says_of_answer_and_reference_in_both_orders(tmp_path: Path) -> None:
    """The policy's own first weights are the judge; each comparison is computed again with Hugging Face's model."""
    problems = {"spec": "synthetic:split=train,count=40,depth=1-2,seed=11"}
    judge = {"kind": "judge", "model": "stage:base", "answers": ["A", "B"]}
    recipe = {
        "name": "judged",
        "folder": str(tmp_path),
        "generators": {"count": 1, "engine": {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16}},
        "scorers": {"judge": {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 16}},
        "stages": [
            {"kind": "sft", "name": "base", "corpus": {"count": 3000}, "train": {"max_steps": 80}},
            {
                "kind": "ppo",
                "name": "ppo",
                "policy": "stage:base",
                "problems": [problems],
                "prompts_per_step": 12,
                "samples_per_prompt": 2,
                "execute_share": 0.0,
                "rewards": [{"kind": "compiler"}, judge, {"kind": "length_cut", "value": -1.0}],
                "learner": {"num_steps": 2, "advantage": {"kind": "group"}},
            },
        ],
    }
    path = tmp_path / "judged.yaml"
    path.write_text(json.dumps(recipe))
    done = subprocess.run([CRUCIBLE, "run", str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    stages = tmp_path / "judged" / "stages"
    config = JudgeTermConfig.model_validate(judge)
    model = AutoModelForCausalLM.from_pretrained(stages / "base" / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(stages / "base" / "model")
    first, second = answer_tokens(tokenizer, config.answers)

    def says_first(prompt: str, one: str, other: str) -> float:
        """P("A") over the two answers alone."""
        asked = config.question.format(prompt=prompt.rstrip(), first=one.rstrip(), second=other.rstrip())
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(asked, add_special_tokens=False)])).logits[0, -1]
        return logits[[first, second]].softmax(0)[0].item()

    by_id = {problem.id: problem for problem in problems_of([ProblemSource.model_validate(problems)])}
    entries = [entry for path in stages.glob("ppo/trajectories/**/*.parquet") for entry in read_journal(path)]
    compared = 0
    for entry in entries:
        problem = by_id[entry.trajectory.id.problem_id]
        for event in entry.trajectory.events:
            if event.term == "judge.compared":
                answer = comparable(entry.program.removeprefix(problem.prompt.encode()))
                reference = comparable(problem.reference_completions[0].encode())
                p, q = says_first(problem.prompt, answer, reference), says_first(problem.prompt, reference, answer)
                assert event.value == pytest.approx(p - q, abs=1e-4)
                compared += 1
    assert compared >= 5
