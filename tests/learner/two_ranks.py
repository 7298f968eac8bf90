"""Run by test_parallel.py in processes of their own: one PPO run on some ranks, its results written by the first."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from learner import losses
from learner.config import GAE, Correction, CriticConfig, PPOConfig, SFTConfig
from learner.errors import NonFiniteGradientError
from learner.filter_config import BestWorst
from learner.lora import plain_weights
from learner.model_config import ComputeConfig, LoRAConfig, NewModelConfig, OptimizerConfig
from learner.models import new_causal_lm
from learner.parallel import Ranks
from learner.ppo import PPOLearner
from learner.preferences import PreferencePair, ScoredAnswer
from learner.reward_model import answer_example, train_reward_model
from learner.scalar_config import RewardModelConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import scores_of
from learner.sft import SFTTrainer, sft_example
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion

CONFIG = PPOConfig(
    num_steps=6,
    filter=BestWorst(),
    advantage=GAE(critic=CriticConfig(warmup_steps=3, warmup_batch_trajectories=5)),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    minibatch_trajectories=3,  # three trajectories in rows of one or two: ranks differ in rows
    row_tokens=24,
    max_trajectory_tokens=20,
)


def batch(first: int) -> list[list[Trajectory]]:
    rng = np.random.default_rng(first)
    return [[_trajectory(rng, group, sample) for sample in range(4)] for group in range(first, first + 4)]


def _trajectory(rng: np.random.Generator, group: int, sample: int) -> Trajectory:
    length = int(rng.integers(2, 14))
    turn = Turn(
        prompt_ids=np.array([2, 3, 4], dtype=np.int32),
        completion_ids=rng.integers(2, 40, length).astype(np.int32),
        loss_mask=np.ones(length, dtype=np.bool_),
        behaviour_logprobs=rng.uniform(-4, -3, length).astype(np.float32),
        spans=(VersionSpan(WeightsVersion(0, 0), 0, length),),
        finish_reason=FinishReason.STOP,
    )
    name = TrajectoryId("run", "ppo", 0, f"p{group}", sample)
    return Trajectory(name, group, (turn,), (RewardEvent("tests", float(rng.random())),))


def model() -> PreTrainedModel:
    shape = NewModelConfig(hidden_size=16, num_layers=2, head_dim=8, intermediate_size=24, max_position_embeddings=64)
    return new_causal_lm(shape, vocab_size=40, eos_token_id=1, pad_token_id=0, seed=3)


def learner(ranks: Ranks) -> PPOLearner:
    return PPOLearner(model(), CONFIG, ranks=ranks)


def weights(of: PPOLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for bucket in of.weights(1024) for name, tensor in bucket}


def train(folder: Path, ranks: Ranks) -> dict[str, object]:
    """Warm-up and three steps, with a checkpoint after the first and an export at the end."""
    trained = learner(ranks)
    flat = [trajectory for group in batch(100) for trajectory in group]
    metrics = trained.warm_up_critic(flat, flat) | trained.step(batch(0)).metrics
    trained.save(folder / "checkpoint")
    for first in (10, 20):
        metrics |= trained.step(batch(first)).metrics
    trained.export(folder / "export")
    return {"weights": weights(trained), "metrics": metrics}


def go_on(checkpoint: Path, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The last two of those steps, from the checkpoint after the first."""
    trained = learner(ranks)
    trained.load(checkpoint)
    for first in (10, 20):
        trained.step(batch(first))
    return weights(trained)


def fine_tuner(ranks: Ranks) -> SFTTrainer:
    """Nine ragged examples in mini-batches of four: ranks differ in rows."""
    rng = np.random.default_rng(5)
    examples = [
        sft_example(str(n), [2, 3], [*rng.integers(2, 40, int(rng.integers(2, 14))).tolist(), 1]) for n in range(9)
    ]
    settings = SFTConfig(
        max_steps=5, batch_examples=4, row_tokens=24, max_example_tokens=20,
        optimizer=OptimizerConfig(learning_rate=1e-2), compute=ComputeConfig(activation_checkpointing=True),
    )  # fmt: skip
    return SFTTrainer(model(), settings, examples, ranks=ranks)


def fine_tune(folder: Path, ranks: Ranks) -> dict[str, object]:
    """All five steps, with a checkpoint after two that a second trainer goes on from."""
    trainer = fine_tuner(ranks)
    trainer.train(stop=lambda: trainer.num_steps == 2 and ranks.is_first)  # one rank says so: all stop
    trainer.save(folder / "sft")
    resumed = fine_tuner(ranks)
    resumed.load(folder / "sft")
    figures = [(progress.loss, progress.tokens) for progress in (trainer.train(), resumed.train())]
    resumed.export(folder / "sft-export")
    return {"figures": figures, "stopped_at": 2, "weights": dict(plain_weights(resumed.policy.model))}


def in_double(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Two steps in double precision, of policy and critic."""
    trained = PPOLearner(model().double(), CONFIG, ranks=ranks)
    for first in (0, 10):
        trained.step(batch(first))
    assert trained.critic is not None
    return weights(trained) | {f"critic.{name}": tensor for name, tensor in plain_weights(trained.critic)}


def adapt(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Two steps of an adapter; the merged weights."""
    settings = CONFIG.model_copy(update={"lora": LoRAConfig(rank=2, alpha=8.0)})
    adapter = PPOLearner(model(), settings, ranks=ranks)
    for first in (0, 10):
        adapter.step(batch(first))
    return weights(adapter)


def undo(ranks: Ranks, correction: Correction | None) -> dict[str, object]:
    """A step whose gradient is no number once one update is made: whom it names, and what it leaves changed."""
    trained = PPOLearner(
        model(), CONFIG.model_copy(update={"correction": correction, "whiten_advantages": False}), ranks=ranks
    )
    groups, original = batch(0), losses.clipped_policy_loss
    # of all advantages only those of this trajectory are above 30: a new critic says 0
    groups[2][1] = dataclasses.replace(groups[2][1], events=(RewardEvent("tests", 77.0),))

    def poisoned(**arguments: Any) -> losses.PolicyLoss:
        result = original(**arguments)
        bad = trained.policy_optimizer.num_steps > 0 and bool((arguments["advantages"] > 30).any())
        return result._replace(loss=result.loss * float("nan")) if bad else result

    def held() -> dict[str, torch.Tensor]:
        models = {"policy": trained.policy, "critic": trained.critic}
        return {f"{of}.{name}": t.clone() for of, m in models.items() if m for name, t in plain_weights(m)}

    before, named = held(), ()
    with patch.object(losses, "clipped_policy_loss", poisoned):
        try:
            trained.step(groups)
        except NonFiniteGradientError as error:
            named = error.trajectories
    return {"named": named, "changed": [name for name, tensor in held().items() if not tensor.equal(before[name])]}


def score_pairs(folder: Path, ranks: Ranks) -> dict[str, object]:
    """A reward model on five ragged pairs, three in a step: its last loss, its scores, and its folder."""
    rng = np.random.default_rng(7)
    answers = [
        [
            ScoredAnswer(
                f"p{n}", f"p{n}{which}", (2, 3), (*rng.integers(2, 40, int(rng.integers(1, 9))).tolist(),), 0.0, True
            )
            for which in "ab"
        ]
        for n in range(5)
    ]
    scalar = ScalarHeadModel.from_causal_lm(model())
    settings = RewardModelConfig(batch_examples=3, row_tokens=24, epochs=2)
    final = train_reward_model(scalar, settings, [PreferencePair(*pair) for pair in answers], ranks=ranks)
    scalar.save_pretrained(folder / "reward", ranks=ranks)
    sequences = [answer_example(answer)[0] for pair in answers for answer in pair]
    return {"loss": final.loss, "scores": torch.from_numpy(scores_of(scalar, sequences, 24, ranks))}


def main(rank: str, folder: str, other_checkpoint: str) -> None:
    """One of two ranks: trains, then goes on from its own checkpoint and from that of a run on one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=2)
    ranks = Ranks.joined()
    results = {
        **train(Path(folder), ranks),
        "again": go_on(Path(folder) / "checkpoint", ranks),
        "resumed": go_on(Path(other_checkpoint), ranks),
        "sft": fine_tune(Path(folder), ranks),
        "lora": adapt(ranks),
        "double": in_double(ranks),
        "reward": score_pairs(Path(folder), ranks),
        "undone": [undo(ranks, correction) for correction in (None, Correction())],
    }
    if ranks.is_first:
        torch.save(results, Path(folder) / "results.pt")
    ranks.wait()
    dist.destroy_process_group()
    # Threads of gloo have aborted a process in the interpreter's own way out, after all was done.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
