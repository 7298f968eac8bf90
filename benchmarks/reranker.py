"""RewardRanker (arXiv 2504.09643): no iteration, hard negatives only, self-training; on the same answers of two models.

python -m benchmarks.reranker            runs the arms (seeds) that are missing, about 10 minutes each on 2 quiet cores
python -m benchmarks.reranker --list     says which stand

One run a seed: the recipe's first round in Python, then both ways to retrain the first ranker. Each of three chooses
among the same eight answers, of the supervised model and of the policy that was trained against the first one, to
problems that nothing has learned from; they are scored here, from the journal. Stopped (``crucible stop``), the same
command goes on where it was.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.scorer import Scorer, ScoringConfig
from benchmarks.experiment import RUNS, load_stages, manifests, recipe_file, run_missing, run_recipe
from cluster.journal import JournalEntry, read_journal
from cluster.run_folder import read_lines
from cluster.stages.rerank import figures_of, outcomes_of
from cluster.statistics import paired_difference
from learner.checkpoint import weights_fingerprint
from learner.model_config import ComputeConfig
from learner.models import load_causal_lm

EXPERIMENT = "reranker"
SEEDS = (1, 2, 3)
SETTINGS = {"no_iteration": "ranker", "hard_negatives": "ranker-hard", "self_training": "ranker-self"}
_MINED_FROM = "synthetic:split=train,count=800,depth=2-3,seed=21"
"""The first of the problems that were collected from: a pair is of one problem, and these have positives."""
MODELS = {"base": "base-model", "policy": "deceiver"}
"""Whose answers are chosen among: the evaluation that sampled them."""


def main() -> None:
    run_missing(EXPERIMENT, {f"seed-{seed}": functools.partial(run_arm, seed) for seed in SEEDS})


def run_arm(seed: int) -> dict[str, Any]:
    """Trains the models of one seed, then lets each ranker choose."""
    name = f"{EXPERIMENT}-{seed}"
    run = RUNS / name
    if list(MODELS.values())[-1] not in manifests(run):
        run_recipe(recipe_file(recipe(seed), name), name, RUNS)
    done = manifests(run)
    return {
        "seed": seed,
        "rerank": {model: _choices(run, evaluation) for model, evaluation in MODELS.items()},
        "mined": {stage: done[stage]["figures"] for stage in ("mined-self", "mined-hard")},
        "rankers": {stage: done[stage]["figures"] for stage in SETTINGS.values()},
        "weights": {
            "base": weights_fingerprint(load_causal_lm(run / "stages" / "base" / "model")),
            "policy_began_with": next(
                line["initial_weights"]
                for line in read_lines(run / "stages" / "policy" / "ledger.jsonl")
                if line["kind"] == "start"
            ),
        },
        "stage_seconds": {stage: manifest["seconds"] for stage, manifest in done.items()},
        "wall_s": sum(manifest["seconds"] for manifest in done.values()),
    }


def recipe(seed: int) -> dict[str, Any]:
    """The recipe's first round, with another ranker retrained beside it, and the evaluations."""
    common, stages = load_stages("reranker.yaml")
    round_1 = {stage["name"]: stage for stage in stages["rounds"]["stages"]}
    base = stages["base"] | {"train": stages["base"]["train"] | {"seed": seed}}
    policy = round_1["policy"] | {"learner": round_1["policy"]["learner"] | {"seed": seed}}
    mined, ranker = round_1["mined"], round_1["ranker"]
    kept = [base, stages["answers"], stages["ranker"], policy]
    for way, positives in (("self", None), ("hard", "stage:answers")):
        kept += [
            mined | {"name": f"mined-{way}", "positives": positives, "problems": [{"spec": _MINED_FROM}]},
            ranker | {"name": f"ranker-{way}", "pairs": ["stage:answers", f"stage:mined-{way}"]},
        ]
    rankers = {"rerank": "stage:ranker-self", "rerank_earlier": "stage:ranker"}
    kept += [stages[evaluation] | rankers for evaluation in MODELS.values()]
    common["generators"]["count"] = 1  # the least work in all: arms run beside other work
    return common | {"seed": seed, "stages": [_in_python(stage) for stage in kept]}


def _in_python(stage: dict[str, Any]) -> dict[str, Any]:
    if "problems" not in stage:
        return stage
    return stage | {"problems": [source for source in stage["problems"] if "language=" not in source["spec"]]}


def _choices(run: Path, evaluation: str) -> dict[str, Any]:
    """Setting -> what its ranker's choice among an evaluation's answers is worth, and its gain on the first one's."""
    problems: dict[str, list[JournalEntry]] = {}
    for path in sorted((run / "stages" / evaluation / "trajectories" / evaluation).glob("*.parquet")):
        for entry in read_journal(path):
            if entry.trajectory.passed is not None:
                problems.setdefault(entry.trajectory.id.problem_id, []).append(entry)
    found: dict[str, Any] = {}
    chosen: dict[str, dict[str, float]] = {}
    for setting, ranker in SETTINGS.items():
        scorer = Scorer(str(run / "stages" / ranker / "model"), ScoringConfig(ComputeConfig(), 4096, threads=1))
        rows = {problem: outcomes_of(entries, _scores(scorer, entries)) for problem, entries in problems.items()}
        chosen[setting] = {problem: row[2] for problem, row in rows.items()}
        gained = paired_difference(chosen["no_iteration"], chosen[setting])
        found[setting] = figures_of(list(rows.values())) | {"gained": asdict(gained)}
    return found


def _scores(scorer: Scorer, entries: list[JournalEntry]) -> list[float]:
    """An empty answer is never chosen, as ``crucible evaluate --rerank`` has it."""
    turns = [entry.trajectory.turns[-1] for entry in entries]
    answers = [(turn.prompt_ids, turn.completion_ids) for turn in turns if len(turn.completion_ids)]
    scores = iter(scorer.score(answers).tolist())
    return [next(scores) if len(turn.completion_ids) else -math.inf for turn in turns]


if __name__ == "__main__":
    main()
