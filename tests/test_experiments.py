"""What the experiments share, and that the recipes which they put together are recipes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import experiment, pf_ppo, process, process_tables, reranker, rlcf, rlcf_tables
from cluster.recipe import load_recipe
from cluster.stage_config import DPOStage, PPOStage
from problems.problem import FunctionSuite
from problems.synthetic import SyntheticConfig, synthetic_problems
from sandbox import Outcome, Program
from sandbox.verdict import Suite


@pytest.fixture(autouse=True)
def _aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (experiment, rlcf):
        monkeypatch.setattr(module, "RUNS", tmp_path)


def test_a_step_that_was_taken_again_counts_once_as_it_was_trained(tmp_path: Path) -> None:
    """A run was killed after step 3, and had its last checkpoint at step 1."""
    taken = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (1, 4)]
    records = [{"stage": "ppo", "lineage": lineage, "step": step} for lineage, step in taken]
    others = [{"stage": "sft", "lineage": 0, "step": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, *others]))
    found = [(record["lineage"], record["step"]) for record in experiment.logged(tmp_path, "ppo")]
    assert found == [(0, 1), (1, 2), (1, 3), (1, 4)]


def stages_of(recipe: dict[str, Any]) -> dict[str, Any]:
    return {stage.name: stage for stage in load_recipe(experiment.recipe_file(recipe, "a_recipe")).stages}


def test_every_arm_of_pf_ppo_takes_as_many_optimizer_steps() -> None:
    shared = stages_of(pf_ppo.shared_recipe(1, "", {}))
    stages = shared | stages_of(pf_ppo.recipe(1, "", {name: Path("shared") / name for name in shared}))
    trained = [method for method in pf_ppo.METHODS if method not in ("sft", "dpo")]
    for method in trained:
        stage = stages[method]
        assert isinstance(stage, PPOStage)
        kept = {"ppo_m": 5, "br": 2, "bw": 2, "random_2": 2}.get(method, 1)
        assert stage.prompts_per_step * kept == 2 * stage.learner.minibatch_trajectories
        generated = stage.prompts_per_step * stage.samples_per_prompt
        assert generated == (48 if method == "ppo_s_steps" else 240)
        assert stage.learner.num_steps == stages["br"].learner.num_steps
        assert {term.kind for term in stage.rewards} == {"reward_model", "length_cut"}
    assert len({stages[f"after-{method}"].problems for method in pf_ppo.METHODS[1:]}) == 1
    assert isinstance(stages["dpo"], DPOStage)
    assert stages["dpo"].pairs == stages["reward"].pairs
    assert (stages["br"].policy, stages["br"].critic_from) == ("shared/base/model", "shared/reward/model")


@pytest.mark.parametrize("condition", [name for name in pf_ppo.CONDITIONS if name])
def test_an_arm_under_another_condition_differs_from_the_plain_one_in_that_alone(condition: str) -> None:
    changed = pf_ppo.CONDITIONS[condition]
    plain_shared = stages_of(pf_ppo.shared_recipe(2, "", {}))
    made = {name: Path("shared") / name for name in plain_shared}
    plain = stages_of(pf_ppo.recipe(2, "", made))
    if changed.makes:
        own = stages_of(pf_ppo.shared_recipe(2, condition, {} if "base" in changed.makes else made))
        assert tuple(own) == changed.makes
        differing = {name for name in own if own[name].model_dump() != plain_shared[name].model_dump()}
        # The strong one names its base by its folder.
        assert differing == ({"answers", "reward"} if condition == "strong" else {"answers", "base"})
        count = "4000" if condition == "strong" else "2000"
        assert own["answers"].problems[0].spec == plain_shared["answers"].problems[0].spec.replace("1000", count)
        if condition == "strong":
            assert own["reward"].base == own["answers"].model == "shared/base/model"
    stages = stages_of(pf_ppo.recipe(2, condition, made))
    assert {name for name in stages if not name.startswith(("half-", "after-"))} == {"br", "bw", "random_2", "ppo_m"}
    for method in ("br", "bw", "random_2", "ppo_m"):
        ours, theirs = stages[method].model_dump(), plain[method].model_dump()
        differing = {field for field in ours if ours[field] != theirs[field]}
        expected = {"tests": {"rewards", "execute_share"}, "strong": set()}.get(condition, {"learner", "export_steps"})
        assert differing == expected
        assert stages[method].learner.model_copy(update={"num_steps": 16}) == plain[method].learner
        assert stages[method].learner.num_steps == {"long": 48, "large": 8}.get(condition, 16)
        assert stages[method].rewards[0].kind == ("all_passed" if condition == "tests" else "reward_model")
        assert stages[f"half-{method}"].model == f"stage:{method}@{stages[method].learner.num_steps // 2}"


def test_both_ways_to_retrain_a_reranker_begin_as_the_first_did() -> None:
    config = load_recipe(experiment.recipe_file(reranker.recipe(2), "reranker"))
    stages = {stage.name: stage for stage in config.stages}
    assert {stages[name].base for name in reranker.SETTINGS.values()} == {"stage:base"}
    assert stages["mined-hard"].positives == "stage:answers"
    assert stages["mined-self"].positives is None


def test_the_arms_of_rlcf_differ_in_their_rewards_alone() -> None:
    def stage(method: str) -> PPOStage:
        (ppo, after) = load_recipe(experiment.recipe_file(rlcf.arm_recipe(method, 1, Path("shared")), method)).stages
        assert isinstance(ppo, PPOStage)
        assert after.kind == "evaluate"
        return ppo

    stages = {method: stage(method) for method in rlcf.METHODS if method != "sft"}
    kinds = {method: [term.kind for term in one.rewards] for method, one in stages.items()}
    assert kinds == {
        "both": ["compiler", "comparison", "length_cut"],
        "compiler": ["compiler", "length_cut"],
        "comparison": ["comparison", "length_cut"],
        "terminal": ["compiler", "comparison", "length_cut"],
        "frozen": ["compiler", "comparison", "length_cut"],
    }
    refreshed = {name: [term.refresh_every_steps for term in one.rewards if term.kind == "comparison"]
                 for name, one in stages.items()}  # fmt: skip
    assert refreshed == {"both": [5], "compiler": [], "comparison": [0], "terminal": [5], "frozen": [0]}
    assert (stages["both"].rewards[0].localise, stages["terminal"].rewards[0].localise) == (True, False)
    assert (stages["both"].rewards[1].compiling_only, stages["comparison"].rewards[0].compiling_only) == (True, False)
    assert len({one.model_copy(update={"rewards": ()}).model_dump_json() for one in stages.values()}) == 1


def test_the_baseline_of_rlcf_is_given_the_seconds_of_discriminator_and_ppo(tmp_path: Path) -> None:
    for run, stage, seconds in (("shared", "discriminator", 40.0), ("rlcf-both-1", "ppo", 60.0)):
        folder = tmp_path / run / "stages" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"seconds": seconds}))
    recipe = rlcf.arm_recipe("sft", 1, tmp_path / "shared")
    trained = load_recipe(experiment.recipe_file(recipe, "sft")).stages[0]
    assert (trained.train.max_seconds, trained.base) == (100.0, str(tmp_path / "shared/stages/base/model"))
    with_problems = {stage.name: stage for stage in load_recipe(experiment.ROOT / "recipes" / "rlcf.yaml").stages}
    assert trained.problems == (*with_problems["discriminator"].problems, *with_problems["ppo"].problems)
    with pytest.raises(SystemExit, match="rlcf-both-2 has to be run first"):
        rlcf.arm_recipe("sft", 2, tmp_path / "shared")


def test_an_arm_of_rlcf_is_gathered_from_its_training_steps_alone(tmp_path: Path) -> None:
    """Before the first step stands what the terms say of the problems."""
    sampled = {name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in rlcf.MEASURES}
    evaluated = {"sampled": sampled | {"code_tokens": 30.0, "compile_errors": {}}}
    judged = {"held_out_accuracy": 0.7, "held_out_loss": 0.5, "num_pairs": 9}
    figures = {"before": evaluated, "discriminator": judged, "ppo": {}, "after": evaluated}
    for stage, of in figures.items():
        folder = tmp_path / "run" / "stages" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"seconds": 1.0, "figures": of}))
    num_steps = experiment.load_stages("rlcf.yaml")[1]["ppo"]["learner"]["num_steps"]
    steps = [{"compiler/no_compiler_prompts": 0.0}]
    steps += [{"policy/kl_reference": 0.25, "compiler/compiles": 0.5}] * num_steps
    lines = [json.dumps({"stage": "ppo", "lineage": 0, "step": step} | of) for step, of in enumerate(steps)]
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("\n".join(lines))
    arm = rlcf.gather(tmp_path / "run", tmp_path / "run")
    assert (arm["kl_curve"], arm["compile_rate_curve"]) == ([0.25] * num_steps, [0.5] * num_steps)
    assert "comparison_curve" not in arm  # no such term was paid
    metrics.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="were logged; remove the run"):
        rlcf.gather(tmp_path / "run", tmp_path / "run")


def test_the_base_models_of_rlcf_fail_in_many_ways() -> None:
    """Of each seed that docs/results.md shows: what the compiler said of the programs that it refused."""
    arms = [json.loads(path.read_text()) for path in sorted((experiment.ARMS / "rlcf").glob("both-*.json"))]
    assert arms
    for arm in arms:
        refused = arm["before"]["compile_errors"]
        assert sum(refused.values()) >= 200
        assert len(refused) >= 5
        assert max(refused.values()) <= 0.35 * sum(refused.values())


@pytest.mark.parametrize("method", process.METHODS)
def test_the_arms_of_process_supervision_differ_in_their_two_uses_of_the_model_alone(method: str) -> None:
    recipe = process.arm_recipe(method, 2, Path("shared"))
    ppo, after = load_recipe(experiment.recipe_file(recipe, method)).stages
    assert isinstance(ppo, PPOStage)
    assert ppo.policy == "shared/stages/base/model"
    assert ppo.learner.seed == 2
    kinds = [term.kind for term in ppo.rewards]
    assert kinds == (["all_passed", "process"] if method in ("dense", "both", "cold") else ["all_passed"])
    assert (ppo.critic_from == "shared/stages/prm/model") == (method in ("value", "both", "cold"))
    assert after.kind == "evaluate"
    warmup = {"warmup_steps", "warmup_rollouts"}
    without: dict[str, Any] = {"rewards": True, "critic_from": True}
    if method == "cold":  # the critic as the model left it
        assert ppo.warmup_groups == 0
        without |= {"learner": {"advantage": {"critic": warmup}}}
    (baseline, _) = load_recipe(experiment.recipe_file(process.arm_recipe("baseline", 2, Path("shared")), "b")).stages
    assert ppo.model_dump(exclude=without) == baseline.model_dump(exclude=without)


def test_the_speed_of_labelling_is_measured_on_the_same_programs_together_and_alone() -> None:
    together, alone = stages_of(process.speed_recipe(Path("shared"))).values()
    assert (together.policies, together.completer) == (("shared/stages/base/model",), "shared/stages/baseline/model")
    assert alone.max_in_flight == together.completions < together.max_in_flight
    same = {"name", "max_in_flight"}
    assert alone.model_dump(exclude=same) == together.model_dump(exclude=same)


class InProcess:
    """Runs programs that the family wrote, and nobody else."""

    async def run(self, program: Program, suite: Suite, _limits: object, **_: object) -> SimpleNamespace:
        assert isinstance(suite, FunctionSuite)
        namespace: dict[str, object] = {}
        try:
            exec(program.source, namespace)
            for case in suite.cases:
                exec(case, namespace)
        except Exception:  # noqa: BLE001 (a planted fault may raise anything)
            return SimpleNamespace(outcome=Outcome.WRONG_ANSWER)
        return SimpleNamespace(outcome=Outcome.PASSED)


FIVE_DISTINCT = """\
    out = []
    for x in xs:
        if len(out) < 5:
            out.append(x)
    xs = out
    out = []
    for x in xs:
        if x not in out:
            out.append(x)
    xs = out
    m = min(2, len(xs))
    xs = xs[m:]
    return xs
"""


@pytest.mark.parametrize(
    ("right", "written", "num_good"),
    [
        ("", "", 13),
        ("if x not in out:", "if x in out:", 7),
        ("        if x not in out:", "        # seen?\n\n        if x in out:", 7),  # what says nothing does not count
        ("xs[m:]", "xs[m + 1:]", 11),  # ``xs = out`` would bring them back, but that was done before
        ("    m = min(2, len(xs))\n    xs = xs[m:]\n", "    xs = xs[2:]\n    xs = xs\n", 13),  # said otherwise
        (
            "not in out:\n            out.append(x)",
            "not in out:\n            out.append(0)",
            8,
        ),  # no loop is begun anew
        ("    out = []\n    for x in xs:\n        if len", "    return xs\n    for x in xs:\n        if len", 0),
    ],
)
async def test_the_true_place_of_the_first_bad_line_by_hand(right: str, written: str, num_good: int) -> None:
    """The first five, then the distinct ones of them, then all but the first two of those."""
    problems = synthetic_problems(SyntheticConfig(count=12, depth=(2, 3), seed=5))
    (problem,) = (problem for problem in problems if problem.id == "synthetic/python/first-5.unique.skip-2")
    assert problem.reference_completions == (FIVE_DISTINCT,)
    executor: Any = InProcess()
    program = problem.prompt + FIVE_DISTINCT.replace(right, written, 1)
    assert await process.true_num_good(executor, problem, program) == num_good


async def test_agreement_counts_searches_that_ended_early_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close() -> None: ...

    async def opened() -> SimpleNamespace:
        return SimpleNamespace(close=close)

    async def truth(_executor: object, _problem: object, program: str) -> int:
        return int(program)

    monkeypatch.setattr(process, "open_executor", opened)
    monkeypatch.setattr(process, "true_num_good", truth)
    rows: list[dict[str, Any]] = [
        {"name": f"a{i}", "passed": False, "problem_id": "p", "program": place, "labels": [1, 0, 1, -1, -1]}
        for i, place in enumerate("2213")
    ]
    rows.append({"name": "right", "passed": True, "problem_id": "p", "program": "9", "labels": [1, 0, 1, 1]})
    problems: Any = {"p": None}
    truths = await process.true_places(rows, problems)
    assert truths == {"a0": 2, "a1": 2, "a2": 1, "a3": 3, "right": 3}  # of one that passes all lines are good
    assert process.agreement(rows, truths) == {"num_answers": 4, "exact": 0.5, "early": 0.25, "late": 0.25}


async def test_what_could_not_be_judged_is_no_bad_line() -> None:
    (problem,) = synthetic_problems(SyntheticConfig(count=1, depth=(2, 2), seed=5))

    async def run(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(outcome=Outcome.INFRASTRUCTURE_ERROR, detail="the engine went away")

    executor: Any = SimpleNamespace(run=run)
    with pytest.raises(RuntimeError, match="the engine went away"):
        await process.true_num_good(executor, problem, problem.prompt + problem.reference_completions[0])


def process_arm(method: str, seed: int, passed: str) -> dict[str, object]:
    estimate = {"mean": sum(map(int, passed)) / (2 * len(passed)), "low": 0.0, "high": 1.0}
    rates = {f"p{place}": int(count) / 2 for place, count in enumerate(passed)}
    return {
        "arm": f"{method}-{seed}", "method": method, "seed": seed, "before": estimate, "after": estimate,
        "after_greedy": estimate, "rates": rates, "stage_seconds": {"supervised": 1.0},
        "pass_rate_curve": [0.1] * 6, "explained_variance_warm": None, "explained_variance_curve": [None, *[0.5] * 5],
    }  # fmt: skip


def test_process_supervision_s_differences_are_paired_by_problem_and_by_seed() -> None:
    # per problem, mean over two seeds: (2 - 0 + 1 - 1) / 4, (1 - 1 + 2 - 2) / 4, (2 - 2 + 2 - 0) / 4
    arms = [process_arm(*row) for row in (("baseline", 1, "012"), ("baseline", 2, "120"))]
    arms += [process_arm(*row) for row in (("both", 1, "212"), ("both", 2, "122"))]
    arms.append(process_arm("dense", 1, "022"))
    text = process_tables.section(arms)
    assert "| both | 2 | - | baseline | +0.333 [" in text  # 0.5, 0, 0.5
    assert "+0.333 ± 0.000 |" in text  # 5/6 - 3/6 in each seed
    assert "| both, EV | 0.500 | 0.500 |" in text
    assert "Labels: not run." in text
    assert "| both | 1 | - | dense | +0.167 [" in text  # seed 1 alone: (2 - 0, 1 - 2, 2 - 2) / 2 over three
    assert "value" not in text.partition("| method |")[2]


def rlcf_arm(method: str, seed: int, compiles: float, passes: float, tokens: float) -> dict[str, Any]:
    def measures(*means: float, tokens: float) -> dict[str, Any]:
        shares = {
            name: {"mean": one, "low": one - 0.04, "high": one + 0.04}
            for name, one in zip(rlcf.MEASURES, means, strict=True)
        }
        return shares | {"code_tokens": tokens, "compile_errors": {"syntax": 30, "arity": 10}}

    return {
        "arm": f"{method}-{seed}", "method": method, "seed": seed, "stage_seconds": {"base": 200.0, "ppo": 400.0},
        "before": measures(0.5, 0.4, 0.2, tokens=40.0), "after": measures(compiles, 0.6, passes, tokens=tokens),
        "discriminator": {"held_out_accuracy": 0.75},
    }  # fmt: skip


def test_the_comparison_off_and_on_and_plain_fine_tuning_stand_beside_each_other_by_hand() -> None:
    arms = [rlcf_arm("sft", 1, 0.6, 0.3, 38.0), rlcf_arm("compiler", 1, 0.9, 0.1, 20.0)]
    arms += [rlcf_arm("both", seed, compiles, 0.3, 40.0) for seed, compiles in ((2, 0.9), (1, 0.8))]
    said = rlcf_tables.section(arms).splitlines()
    assert "| seed 1 | 40 | syntax 75%, arity 25% |" in said
    rows = {}
    for line in said:
        if line.startswith("| "):
            rows.setdefault(line.split("|")[1].strip(), line)
    assert rows["both-1"] == (
        "| both-1 | 0.500 ± 0.040 -> 0.800 ± 0.040 | 0.400 ± 0.040 -> 0.600 ± 0.040 | 0.200 ± 0.040 -> 0.300 ± 0.040 "
        "| 40.0 -> 40.0 | 0.750 | 600 |"
    )
    # (0.8 - 0.5) / 0.5 and (0.9 - 0.5) / 0.5: mean 0.7, half interval 12.706 * 0.1414 / sqrt(2)
    assert rows["both"] == "| both | 2 | +0.700 ± 1.271 | +0.100 ± 0.000 | +1.000 ± 0.000 |"
    one = "(one seed: no interval)"
    assert rows["compiler"] == f"| compiler | 1 | +0.800 {one} | -0.100 {one} | +0.500 {one} |"
    assert rows["sft"] == f"| sft | 1 | +0.200 {one} | +0.100 {one} | +0.950 {one} |"
    assert list(rows)[-4:] == ["both", "compiler", "sft", "both minus"]
    less = said[said.index("| both minus | seeds | compiles | passes | code tokens, ratio |") :]
    assert less[2] == f"| compiler | 1 | -0.100 {one} | +0.200 {one} | +2.000 {one} |"
    assert less[3] == f"| sft | 1 | +0.200 {one} | +0.000 {one} | +1.053 {one} |"
    assert "No arm was run." in rlcf_tables.section([])
