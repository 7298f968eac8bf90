"""The PPO learner: groups of scored trajectories in, an updated policy out.

    admit -> filter -> anchor -> lay out -> score (reference, critic) -> token rewards -> advantages -> whiten
          -> critic epochs -> policy epochs

All that comes before the epochs looks at the policy as it was when the step began; ratios are against the *behaviour*
log-probabilities that the generator recorded, or, under a correction, against the policy of the step's begin. Whitening
comes after the filter. Nothing here knows which system it serves: it sees rewards per token, masks and weights.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.checkpoint import load_checkpoint, random_state, restore_random_state, weights_fingerprint
from learner.checkpoint_writer import CheckpointWriter
from learner.config import GAE, PPOConfig
from learner.critic import Progress, value_row_loss, warm_up
from learner.experience import Batch, Experience, Outcome, admit, admit_ungrouped, apply_filter, lay_out
from learner.export import Bucket, export_huggingface, weight_buckets
from learner.flops import critic_arithmetic, peak_flops, policy_arithmetic
from learner.kl_control import next_coefficient
from learner.lora import AdapterOff, add_adapter, trained_state
from learner.memory import peak_bytes, reset_peak
from learner.minibatch import PassFigures, RowLoss, minibatches, update
from learner.normalise import RunningMoments
from learner.optim import ScheduledOptimizer, Undo
from learner.packing import TokenSequence
from learner.parallel import SINGLE, Ranks, shard
from learner.placement import Place, at_work, compute_device, settle
from learner.policy import Policy, check_packed_path
from learner.policy_update import policy_row_loss
from learner.scalar_head import ScalarHeadModel
from learner.signals import Anchor, Signals, advantages_of, anchor_of, critic_targets, normalised, score
from learner.stepmetrics import PartTimes, Passed, batch_metrics, signal_metrics, speed_metrics
from learner.trajectory import Trajectory
from problems.identity import TrajectoryId, derive_seed


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one learner step did.

    Attributes:
        metrics: figures under the names of docs/metrics.md.
        outcomes: one for each trajectory given, in the order given: kept or not, and why not.
        trained_ids: trajectories that made the update.
        policy_tokens: tokens (prompts included) that passed forward and backward through the policy in one epoch.
        critic_tokens: likewise through the critic.
    """

    metrics: dict[str, float]
    outcomes: tuple[Outcome, ...]
    trained_ids: tuple[TrajectoryId, ...]
    policy_tokens: int
    critic_tokens: int


class PPOLearner:
    """Holds policy, reference and critic with their optimizers; everything random is seeded by (config.seed, step)."""

    def __init__(
        self,
        policy: PreTrainedModel,
        config: PPOConfig,
        *,
        reference: PreTrainedModel | None = None,
        critic: ScalarHeadModel | None = None,
        ranks: Ranks = SINGLE,
    ) -> None:
        """
        Args:
            policy: trained in place; from ``learner.models``.
            config: of the stage.
            reference: the anchor; None: ``policy`` as it is now (a frozen copy, or with LoRA the adapter off).
            critic: initial value model (such as a process reward model); None: policy's backbone under a zero head.
            ranks: processes that share the work; each makes this object with the same arguments, calls the same methods
                in the same order with the same trajectories, and gets the same results.
        """
        self.config = config
        self.ranks, self.device = ranks, compute_device(config.compute.device)
        settle(policy, self.device)
        self.policy = Policy(policy, temperature=config.temperature, compute=config.compute)
        check_packed_path(self.policy, max_tokens=config.max_trajectory_tokens)
        self.initial_fingerprint = weights_fingerprint(policy)
        """Of the policy as it was given, whatever is loaded over it."""
        base = self.initial_fingerprint if config.lora is not None else "none"
        self._critic_is_new = critic is None
        self.critic = self._critic(critic)  # before the adapter: its backbone is the plain one
        self._policy_arithmetic = policy_arithmetic(self.policy)
        self._critic_arithmetic = None if self.critic is None else critic_arithmetic(self.critic)
        if config.lora is not None:
            add_adapter(policy, config.lora, seed=derive_seed("lora", config.seed))
        self.reference, anchor_fingerprint = self._reference(reference, base)
        self._origins = {"reference policy": anchor_fingerprint, "base of the adapter": base}
        shard(self.policy, ranks)  # last: reference and critic were copied from the whole one
        anchor = self._own_reference
        states = config.compute.optimizer_states
        self.policy_optimizer = ScheduledOptimizer(self.policy, config.optimizer, states=states)
        self.critic_optimizer = None
        if self.critic is not None and isinstance(config.advantage, GAE):
            self.critic_optimizer = ScheduledOptimizer(self.critic, config.advantage.critic.optimizer, states=states)
            settle(self.critic, self.device, self._critic_place)
        if anchor is not None:
            settle(anchor, self.device, config.kl.placement)
        self._writer = CheckpointWriter(ranks)
        self.num_steps = 0
        self.kl_coefficient = config.kl.coefficient
        self.moments = RunningMoments()

    @property
    def vocab_size(self) -> int:
        return self.policy.model.config.vocab_size

    def warm_up_critic(
        self,
        trajectories: Sequence[Trajectory],
        held_out: Sequence[Trajectory],
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """Teaches the critic the returns of the frozen policy, before the first step.

        Args:
            trajectories: rollouts of the policy as it is, scored; ``CriticConfig.warmup_rollouts`` of them.
            held_out: likewise, of other problems; explained variance is measured here.
            progress: called after each update.

        Returns:
            Metrics under the names of docs/metrics.md.
        """
        if self.critic is None or not isinstance(self.config.advantage, GAE):
            raise ValueError("this stage has no critic: advantage.kind is not 'gae'")
        train, test = (admit_ungrouped(t, self.config, self.vocab_size) for t in (trajectories, held_out))
        self.moments = self.moments.updated([sample.reward for sample in train])
        train, test = (normalised(lay_out(samples), self.moments, self.config) for samples in (train, test))
        with at_work(self.critic, self.device, self._critic_place):
            return warm_up(
                self.critic, train, test, self.config, self.config.advantage.critic, progress, self.ranks,
                is_new=self._critic_is_new,
            )  # fmt: skip

    def step(self, groups: Sequence[Sequence[Trajectory]]) -> StepResult:
        """Trains on one batch of groups; each group holds the samples of one issue of one prompt.

        Raises:
            TrajectoryError: one that can't be trained; it is named, nothing was changed.
            NonFiniteGradientError: the step is undone; weights and optimizers are as before it.
        """
        times = PartTimes()
        reset_peak(self.device)
        with times.part("filter"):
            batch, anchor = self._choose(groups)
        if not batch.kept:
            return self._finish(batch, {}, times)
        with times.part("score"):
            moments = self.moments.updated([sample.reward for sample in batch.usable])
            trained, studied, members = (
                normalised(lay_out(samples), moments, self.config)
                for samples in (batch.kept, [*batch.kept, *batch.also_studied], batch.usable)
            )
            signals = self._score(studied)
            targets = critic_targets(studied, signals, self.config)
            advantages = advantages_of(trained, members, signals, self.config)
        with self._undone_if_it_fails():
            with times.part("critic"), at_work(self.critic, self.device, self._critic_place):
                critic = self._train_critic(studied, signals, targets)
            with times.part("policy"):
                policy = self._train_policy(trained, anchor, signals, advantages)
        metrics = signal_metrics(
            trained, studied, signals, anchor, self._gamma, studied_all=len(studied.lengths) == len(batch.usable)
        )
        metrics |= {"policy/kl_coefficient": self.kl_coefficient, "reward/running_std": moments.std}
        self.moments = moments
        self.kl_coefficient = next_coefficient(
            self.config.kl, self.kl_coefficient, metrics["policy/kl_reference"], num_samples=len(batch.kept)
        )
        return self._finish(batch, {**policy, **critic, **metrics}, times)

    def weights(self, bucket_bytes: int = 64 << 20) -> Iterator[Bucket]:
        """The policy's weights under Hugging Face names, in buckets; read them before the next step."""
        return weight_buckets(self.policy.model, bucket_bytes)

    def export(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Writes the policy as a Hugging Face folder."""
        dtype = getattr(torch, self.config.export_precision)
        export_huggingface(self.policy.model, folder, tokenizer=tokenizer, dtype=dtype, ranks=self.ranks)

    def save(self, folder: str | Path, figures: Mapping[str, float] | None = None) -> None:
        """Writes everything that the next step depends on; ``folder`` appears complete or not at all.

        ``figures`` are noted in its manifest.
        """
        self.begin_save(folder, figures)
        self.finish_save()

    def begin_save(self, folder: str | Path, figures: Mapping[str, float] | None = None) -> None:
        """Like ``save``, but returns when the state is copied; it is written while training goes on."""
        self._writer.begin(
            folder, kind="ppo", settings=self.config, state=self._state(), origins=self._origins, figures=figures
        )

    def finish_save(self) -> Path | None:
        """Waits for the checkpoint that is being written; returns its folder. Raises what went wrong."""
        return self._writer.finish()

    def load(self, folder: str | Path) -> None:
        """Goes on from what ``save`` wrote; the next step is bit for bit the one that would have followed.

        The learner must have been made with the same config and reference. Raises CheckpointError otherwise.
        """
        state = load_checkpoint(
            folder, kind="ppo", settings=self.config, state=self._state(), origins=self._origins, ranks=self.ranks
        )
        self.policy.load_state_dict(state["policy"], strict=self.config.lora is None)
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        if self.critic is not None and self.critic_optimizer is not None:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.num_steps, self.kl_coefficient = state["num_steps"], state["kl_coefficient"]
        self.moments = RunningMoments(**state["moments"])
        restore_random_state(state["random"])

    # --- the parts of a step

    def _choose(self, groups: Sequence[Sequence[Trajectory]]) -> tuple[Batch, Anchor]:
        """Which trajectories are trained, which only the critic sees, and why the others are not."""
        admitted, uniform, dropped = admit(groups, self.config, self.vocab_size)
        kept, passed_over = apply_filter(admitted, self.config)
        kept, masked, anchor = anchor_of(kept, self.policy, self.config, self.ranks)
        dropped |= {sample.trajectory.id: reason for sample, reason in masked}
        dropped |= {sample.trajectory.id: f"filter:{self.config.filter.kind}" for sample in passed_over}
        batch = Batch(
            given=tuple(trajectory for group in groups for trajectory in group),
            usable=(*(sample for group in admitted for sample in group), *uniform),
            kept=tuple(kept),
            also_studied=(*(sample for sample, _ in masked), *passed_over, *uniform) if self._critic_sees_all else (),
            dropped=dropped,
        )
        return batch, anchor

    def _score(self, studied: Experience) -> Signals:
        """Reference and critic pass over the studied tokens."""
        with (
            at_work(self._own_reference, self.device, self.config.kl.placement),
            at_work(self.critic, self.device, self._critic_place),
        ):
            return score(
                studied,
                reference=self.reference,
                critic=self.critic,
                kl_coefficient=self.kl_coefficient,
                config=self.config,
                ranks=self.ranks,
            )

    def _train_critic(self, studied: Experience, signals: Signals, returns: Tensor | None) -> dict[str, float]:
        if self.critic is None or self.critic_optimizer is None or returns is None or signals.values is None:
            return {}
        assert isinstance(self.config.advantage, GAE)
        settings = self.config.advantage.critic
        row_loss = value_row_loss(self.critic, old_values=signals.values, returns=returns, clip=settings.value_clip)
        figures = self._epochs("critic", studied.sequences, settings.epochs, self.critic_optimizer, row_loss)
        return {f"critic/{name}": value for name, value in figures.items()}

    def _train_policy(
        self, trained: Experience, anchor: Anchor, signals: Signals, advantages: Tensor
    ) -> dict[str, float]:
        row_loss = policy_row_loss(
            self.policy, anchor, signals, advantages, config=self.config, kl_coefficient=self.kl_coefficient
        )
        figures = self._epochs("policy", trained.sequences, self.config.epochs, self.policy_optimizer, row_loss)
        return {f"policy/{name}": value for name, value in figures.items()}

    def _epochs(
        self, name: str, sequences: Sequence[TokenSequence], epochs: int, optimizer: ScheduledOptimizer, loss: RowLoss
    ) -> dict[str, float]:
        """Passes over the sequences in mini-batches, a fresh order each time."""
        config, figures = self.config, PassFigures()
        for epoch in range(epochs):
            for batch in minibatches(
                sequences,
                size=config.minibatch_trajectories,
                aggregation=config.aggregation if name == "policy" else "token_mean",
                constant_length=config.max_trajectory_tokens,
                order_seed=derive_seed(f"{name}-order", config.seed, self.num_steps, epoch),
            ):
                update(
                    batch, model_name=name, optimizer=optimizer, row_tokens=config.row_tokens, row_loss=loss,
                    progress=self.num_steps / config.num_steps, figures=figures, ranks=self.ranks,
                )  # fmt: skip
        if not figures.num_updates:
            return {}
        return {
            **figures.means(self.ranks),
            "learning_rate": optimizer.learning_rate,
            "updates": float(figures.num_updates),
        }

    def _finish(self, batch: Batch, metrics: dict[str, float], times: PartTimes) -> StepResult:
        """Counts the step and writes down what became of every trajectory."""
        self.num_steps += 1
        policy_tokens = sum(sample.sequence.num_tokens for sample in batch.kept)
        studied_tokens = policy_tokens + sum(sample.sequence.num_tokens for sample in batch.also_studied)
        critic_tokens = studied_tokens if self.critic is not None and batch.kept else 0
        counts = batch_metrics(batch, policy_tokens, critic_tokens)
        counts["learner/memory_peak_bytes"] = float(self.ranks.largest(torch.tensor(peak_bytes(self.device))))
        return StepResult(
            metrics={**metrics, **counts, **times.metrics(), **self._speed(batch, times)},
            outcomes=batch.outcomes(),
            trained_ids=tuple(sample.trajectory.id for sample in batch.kept),
            policy_tokens=policy_tokens,
            critic_tokens=critic_tokens,
        )

    def _speed(self, batch: Batch, times: PartTimes) -> dict[str, float]:
        """Tokens and arithmetic a second of the updates. The gradient of a frozen base's weights is not computed."""
        config = self.config
        kept = [sample.sequence for sample in batch.kept]
        passes = 2 if config.lora is not None else 3
        flops = passes * config.epochs * self._policy_arithmetic.forward(kept)
        passed = {"policy": Passed(config.epochs * sum(s.num_tokens for s in kept), flops)}
        if self._critic_arithmetic is not None and isinstance(config.advantage, GAE):
            epochs, studied = config.advantage.critic.epochs, kept + [s.sequence for s in batch.also_studied]
            flops = 3 * epochs * self._critic_arithmetic.forward(studied, trained_only=False)
            passed["critic"] = Passed(epochs * sum(s.num_tokens for s in studied), flops)
        peak = config.peak_flops or peak_flops(self.device)
        return speed_metrics(times, passed, None if peak is None else peak * self.ranks.count)

    # --- what it holds

    @property
    def _critic_sees_all(self) -> bool:
        advantage = self.config.advantage
        return isinstance(advantage, GAE) and advantage.critic.train_on == "all"

    @property
    def _gamma(self) -> float:
        return self.config.advantage.gamma if isinstance(self.config.advantage, GAE) else 1.0

    @property
    def _critic_place(self) -> Place:
        advantage = self.config.advantage
        return advantage.critic.placement if isinstance(advantage, GAE) else "device"

    @property
    def _own_reference(self) -> Policy | None:
        """The reference where it is a model of its own, and not the policy without its adapter."""
        return self.reference if isinstance(self.reference, Policy) else None

    def _reference(self, reference: PreTrainedModel | None, base: str) -> tuple[Policy | AdapterOff | None, str]:
        """The anchor, sharded, and the fingerprint of its weights; ``base`` is that of an adapter's base."""
        if not self.config.kl.coefficient:
            return None, "none"
        if reference is None and self.config.lora is not None:
            return AdapterOff(self.policy), base
        if reference is None:
            return self.policy.frozen_copy(self.ranks), self.initial_fingerprint
        given = Policy(reference, temperature=self.config.temperature, compute=self.config.compute)
        fingerprint = weights_fingerprint(reference.requires_grad_(False))
        shard(given, self.ranks)
        return given, fingerprint

    def _critic(self, critic: ScalarHeadModel | None) -> ScalarHeadModel | None:
        """The value model, sharded."""
        if not isinstance(self.config.advantage, GAE):
            return None
        if critic is None:
            critic = ScalarHeadModel.from_causal_lm(self.policy.model, ranks=self.ranks)
        else:
            shard(critic, self.ranks)
        return critic.compute_as(self.config.compute)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "num_steps": self.num_steps,
            "kl_coefficient": self.kl_coefficient,
            "moments": asdict(self.moments),
            "policy": trained_state(self.policy),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "random": random_state(),
        }
        if self.critic is not None and self.critic_optimizer is not None:
            state["critic"] = self.critic.state_dict()
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
        return state

    @contextmanager
    def _undone_if_it_fails(self) -> Generator[None]:
        """Restores weights and optimizers if the step breaks off, whatever mini-batches were already applied."""
        undo = [Undo(self.policy, self.policy_optimizer)]
        if self.critic is not None and self.critic_optimizer is not None:
            undo.append(Undo(self.critic, self.critic_optimizer))
        try:
            yield
        except BaseException:
            for memory in undo:
                memory.restore()
            raise
