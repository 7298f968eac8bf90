"""Trainers of two ranks as Ray actors: one run with a ppo and an sft stage, in which a rank is killed."""

import contextlib
import json

import psutil
import yaml

from learner.models import load_causal_lm

RANKS = 2


def ranks_of(run, kind):
    """Processes of the run's actors of that class."""
    found = []
    for process in psutil.Process(run.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile is none of them
            if f"ray::{kind}" in " ".join(process.cmdline()[:1]):
                found.append(process)
    return found


def test_two_ranks_train_begin_again_when_one_dies_and_fine_tune(stand_in_run):
    run = stand_in_run(stage={"ranks": RANKS, "checkpoint_every_steps": 2, "learner": {"num_steps": 6}})
    recipe = yaml.safe_load(run.recipe_file.read_text())
    recipe["stages"].append({
        "kind": "sft", "name": "tuned", "base": "stage:ppo", "ranks": RANKS, "corpus": {"count": 40},
        "train": {"max_steps": 4, "batch_examples": 8, "row_tokens": 512},
    })  # fmt: skip
    run.recipe_file.write_text(yaml.safe_dump(recipe))
    run.start()
    run.wait(lambda: run.steps >= 3, 240, "the third step")
    trainers = ranks_of(run, "TrainerActor")
    assert len(trainers) == RANKS
    trainers[-1].kill()
    run.finish(400)
    run.verify()
    assert run.steps == 6
    assert any(event["who"] == "trainer" for event in run.events("lost")), run.tail()
    tuned = json.loads((run.root / "stages" / "tuned" / "manifest.json").read_text())
    assert tuned["figures"]["step"] == 4
    assert load_causal_lm(run.root / "stages" / "tuned" / "model").config.hidden_size == 32
