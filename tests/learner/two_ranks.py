"""Run by test_parallel.py in processes of their own: one PPO run on some ranks, its results written by the first."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from learner.config import GAE, BestWorst, CriticConfig, NewModelConfig, OptimizerConfig, PPOConfig
from learner.models import new_causal_lm
from learner.parallel import Ranks
from learner.ppo import PPOLearner
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


def learner(ranks: Ranks) -> PPOLearner:
    shape = NewModelConfig(hidden_size=16, num_layers=2, head_dim=8, intermediate_size=24, max_position_embeddings=64)
    model = new_causal_lm(shape, vocab_size=40, eos_token_id=1, pad_token_id=0, seed=3)
    return PPOLearner(model, CONFIG, ranks=ranks)


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


def main(rank: str, folder: str, other_checkpoint: str) -> None:
    """One of two ranks: trains, then goes on from the checkpoint of a run on one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=2)
    ranks = Ranks.joined()
    results = {**train(Path(folder), ranks), "resumed": go_on(Path(other_checkpoint), ranks)}
    if ranks.is_first:
        torch.save(results, Path(folder) / "results.pt")
    ranks.wait()
    dist.destroy_process_group()
    # Threads of gloo have aborted a process in the interpreter's own way out, after all was done.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
