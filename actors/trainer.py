"""The trainer's workers: supervised fine-tuning and PPO. cluster/ turns them into Ray actors."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from actors.ipc_weights import TRANSPORT as IPC
from actors.ipc_weights import IpcSender
from actors.lines import append_line
from actors.nccl_weights import TRANSPORT as NCCL
from actors.nccl_weights import NcclSender
from actors.weights import ShmSender, WeightSender
from learner.config import PPOConfig, SFTConfig
from learner.model_config import ComputeConfig, NewModelConfig
from learner.models import check_tokenizer, load_causal_lm, load_tokenizer, new_causal_lm
from learner.parallel import SINGLE, Ranks
from learner.placement import compute_device
from learner.ppo import PPOLearner
from learner.scalar_head import ScalarHeadModel
from learner.sft import SFTProgress, SFTTrainer, sft_example
from learner.trajectory import Trajectory
from problems.identity import WeightsVersion
from problems.prompting import PromptStyle, render_prompt


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one learner step did, in plain values.

    Attributes:
        version: of the weights that the step made.
        metrics: under the names of docs/metrics.md.
        start, end: seconds since the epoch.
    """

    version: WeightsVersion
    metrics: dict[str, float]
    start: float
    end: float


class RankOfSeveral:
    """One process of a trainer: before it trains it may meet the others.

    Args:
        compute: says where it computes.
        rank: of this process. Each is given the same calls in the same order; the first one answers and writes.
    """

    def __init__(self, compute: ComputeConfig, rank: int) -> None:
        self._compute = compute
        self._rank = rank
        self._is_first = rank == 0
        self._ranks = SINGLE

    def meeting_place(self) -> str:
        """Where the ranks find each other: an address of the first one's node with a port that is free now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{_own_address()}:{probe.getsockname()[1]}"

    def join(self, place: str, count: int, timeout_s: float) -> None:
        """Meets the other ranks; returns when all are there."""
        device = compute_device(self._compute.device)
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=place,
            rank=self._rank,
            world_size=count,
            timeout=timedelta(seconds=timeout_s),
        )
        self._ranks = Ranks.joined(device.type)


class TrainerWorker(RankOfSeveral):
    """One ppo stage's learner with its side of the weight transport.

    Args:
        config: the learner's settings.
        run: name of the run; a part of the published folder's name.
        threads: of torch.
        rank: of this process among the learner's; the first one publishes the weights.
        transport: of the weights to the generators: ``GeneratorConfig.weight_transport``.
    """

    def __init__(self, config: PPOConfig, run: str, threads: int, rank: int = 0, transport: str = "shm") -> None:
        torch.set_num_threads(threads)
        super().__init__(config.compute, rank)
        self._config = config
        self._sender = _sender(run, transport) if self._is_first else None
        self._learner: PPOLearner | None = None
        self._tokenizer: Any = None
        self._lineage = 0
        self._records = Path()

    def ping(self) -> None:
        """Answers while the process lives, whatever else it does."""

    def start(self, policy: str, checkpoint: str | None, lineage: int, records: str, critic: str | None = None) -> str:
        """Loads the initial policy (also the reference), then the checkpoint's state over it if there is one.

        Returns the initial policy's fingerprint (learner.checkpoint): what this process has read, whatever was named.

        Args:
            policy: a Hugging Face folder.
            checkpoint: what ``save`` wrote, or None.
            lineage: of all weights that this object makes.
            records: file that each step is written to before it is reported: what it trained and what it dropped.
            critic: folder of a scalar-head model that the critic begins as; None: the policy's backbone, a new head.
        """
        self._lineage, self._records = lineage, Path(records)
        model = load_causal_lm(policy)
        self._tokenizer = load_tokenizer(policy, model)
        value_model = None if critic is None else ScalarHeadModel.from_pretrained(critic)
        self._learner = PPOLearner(model, self._config, critic=value_model, ranks=self._ranks)
        if checkpoint is not None:
            self._learner.load(checkpoint)
        return self._learner.initial_fingerprint

    def warm_up(self, train: Sequence[Trajectory], held_out: Sequence[Trajectory]) -> dict[str, float]:
        """See PPOLearner.warm_up_critic."""
        return self._started.warm_up_critic(train, held_out)

    def step(self, groups: Sequence[Sequence[Trajectory]]) -> StepReport:
        """One learner step on complete groups."""
        start, cpu = time.time(), time.process_time()
        result = self._started.step(groups)
        dropped = {str(outcome.id): outcome.drop_reason or "" for outcome in result.outcomes if not outcome.kept}
        trained = [str(identity) for identity in result.trained_ids]
        if self._is_first:
            append_line(self._records, {"version": str(self.version), "trained": trained, "dropped": dropped})
        metrics = result.metrics | {"time/train_cpu_s": time.process_time() - cpu}
        return StepReport(self.version, metrics, start, time.time())

    @property
    def version(self) -> WeightsVersion:
        """Of the weights as they are now."""
        return WeightsVersion(self._lineage, self._started.num_steps)

    def publish(self, version: WeightsVersion) -> dict[str, str]:
        """Publishes the policy's weights as ``version`` and returns the ticket (of the first rank; others: empty)."""
        if self._sender is not None:
            return self._sender.publish(version, self._started.weights())
        for _ in self._started.weights():  # gathering them takes all ranks
            pass
        return {}

    def yield_gpu(self) -> None:
        """Gives memory that the last step used, and nothing needs now, to whom the GPU is shared with."""
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()
            torch.cuda.empty_cache()

    def begin_save(self, checkpoints: str, figures: Mapping[str, float] | None = None) -> WeightsVersion:
        """Copies the state and begins to write it under the version's name; returns the version when it is copied.

        ``figures`` are noted in the checkpoint, so that the best one can be told.
        """
        self._started.begin_save(Path(checkpoints) / str(self.version), figures)
        return self.version

    def finish_save(self) -> None:
        """Waits until what was begun is written, complete or not at all. May run in a thread beside ``step``."""
        self._started.finish_save()

    def export(self, folder: str) -> None:
        """Writes the policy as a Hugging Face folder, tokenizer included."""
        self._started.export(folder, self._tokenizer)

    def close(self) -> None:
        """Frees published weights."""
        if self._sender is not None:
            self._sender.close()

    @property
    def _started(self) -> PPOLearner:
        if self._learner is None:
            raise RuntimeError("the trainer has no model: start() comes first")
        return self._learner


def _sender(run: str, transport: str) -> WeightSender:
    if transport == IPC:
        return IpcSender()
    return NcclSender(_own_address()) if transport == NCCL else ShmSender(run)


def _own_address() -> str:
    """This node's address as others see it. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


class FineTuner(RankOfSeveral):
    """One sft stage's trainer. ``train`` runs in one thread, ``progress`` and ``stop`` answer from another.

    Args:
        config: the trainer's settings.
        threads: of torch.
        rank: of this process among the trainer's.
    """

    def __init__(self, config: SFTConfig, threads: int, rank: int = 0) -> None:
        torch.set_num_threads(threads)
        super().__init__(config.compute, rank)
        self._config = config
        self._latest: SFTProgress | None = None
        self._stop = threading.Event()

    def train(
        self,
        tokenizer_folder: str,
        base: str | None,
        new_model: NewModelConfig,
        style: PromptStyle,
        pairs: Sequence[tuple[str, str]],
        output: str,
        checkpoint: str,
        checkpoint_every_s: float,
    ) -> SFTProgress:
        """Trains on (prompt, completion) texts and writes a Hugging Face folder.

        Args:
            tokenizer_folder: tokenizer, saved beside the model.
            base: model to start from; None makes one of ``new_model``.
            new_model: shape of the new model.
            style: how prompts are rendered, here as in RL and evaluation.
            pairs: completions get the end-of-sequence token.
            output: the folder to write.
            checkpoint: folder of the newest checkpoint; the training goes on from it, if there is one.
            checkpoint_every_s: seconds of training between two.

        Raises TokenizerMismatchError, ModelRefusedError, CheckpointError.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        model = (
            load_causal_lm(base)
            if base is not None
            else new_causal_lm(
                new_model,
                vocab_size=len(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                seed=self._config.seed,
            )
        )
        check_tokenizer(tokenizer, model.config)
        examples = [
            sft_example(
                str(index),
                render_prompt(prompt, style, tokenizer),
                [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id],
            )
            for index, (prompt, completion) in enumerate(pairs)
        ]
        trainer = SFTTrainer(model, self._config, examples, ranks=self._ranks)
        if Path(checkpoint).exists():
            trainer.load(checkpoint)
        final = trainer.train(
            progress=self._note,
            stop=self._stop.is_set,
            checkpoint=Path(checkpoint),
            checkpoint_every_s=checkpoint_every_s,
        )
        trainer.export(Path(output), tokenizer)
        return final

    def progress(self) -> SFTProgress | None:
        """Where the training stands; None before its first step."""
        return self._latest

    def stop(self) -> None:
        """Ends the training between two steps."""
        self._stop.set()

    def _note(self, progress: SFTProgress) -> None:
        self._latest = progress
