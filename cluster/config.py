"""The run: a list of stages and what they share. Composes the rooms' own settings; nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cluster.actor_config import (
    Colocated,
    ExecutorsConfig,
    GeneratorsConfig,
    Placement,
    ScorersConfig,
    Separated,
    SupervisionConfig,
)
from cluster.repeat import written_out
from cluster.settings import Settings
from cluster.stage_config import (
    EvaluateStage,
    MineStage,
    OneTrainerStage,
    PPOStage,
    RewardModelStage,
    SFTStage,
    Stage,
    StageBase,
    exported_steps,
    scored_by,
    stage_references,
)


class PromptConfig(Settings):
    """How prompts are rendered, for SFT, RL and evaluation alike."""

    template: Literal["plain", "chat"] = "plain"
    """``plain``: the problem's prompt as it is; ``chat``: the tokenizer's chat template."""
    system: str = ""
    """System message of the chat template; empty for none."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion."""


class RayConfig(Settings):
    """Which Ray cluster the run uses."""

    address: str | None = None
    """Address of a cluster to join, ``auto`` for the one on this machine; none starts one that ends with the run.
    Inside a submitted Ray job the job's cluster is joined whatever stands here."""
    dashboard: bool = False
    """Start the dashboard with a cluster of our own (about 0.9 GB of memory)."""
    memory_reserve_gb: float = Field(default=1.0, ge=0)
    """Gigabytes of memory that must stay free beside what the run's actors are estimated to need."""
    wait_for_resources_s: float = Field(default=0.0, ge=0)
    """Seconds that a run waits until a joined cluster can hold it; Ray's autoscaler is asked for what is missing, and
    every ten seconds a line says what that is. 0: a cluster that cannot hold it now is an error."""


class WandbConfig(Settings):
    """Measurements also go to Weights & Biases; needs the package ``wandb`` and WANDB_API_KEY in the environment."""

    project: str
    """Project there."""
    entity: str | None = None
    """User or team; none: the key's own."""
    mode: Literal["online", "offline"] = "online"
    """``offline`` writes into the run's folder alone."""


# Which kinds of stages make what a field names; a model where the field is not listed.
_MADE_BY = {
    "compare_with": ["evaluate"],
    "rerank": ["reward_model", "process_reward_model"],
    "rerank_earlier": ["reward_model", "process_reward_model"],
    "earlier": ["reward_model"],
    "reward_model": ["reward_model"],
    "pairs": ["collect", "mine"],
    "positives": ["collect"],
    "base": ["dpo", "ppo", "process_reward_model", "reward_model", "sft"],
    "encoder": ["discriminator", "dpo", "ppo", "reward_model", "sft"],
    "comparison": ["discriminator"],
    "critic_from": ["process_reward_model", "reward_model"],
    "labels": ["line_labels"],
    "process": ["process_reward_model"],
}


class RunConfig(Settings):
    """One run."""

    name: str
    """Names the run's folder; two drivers of one name are refused."""
    seed: int = Field(default=1, ge=0)
    """Everything random is derived from it."""
    folder: Path = Path("runs")
    """Where run folders lie."""
    prompt: PromptConfig = PromptConfig()
    """How prompts are rendered."""
    generators: GeneratorsConfig = GeneratorsConfig()
    """The generators."""
    executors: ExecutorsConfig = ExecutorsConfig()
    """The executors."""
    scorers: ScorersConfig = ScorersConfig()
    """The scorers, where a stage scores with a model."""
    supervision: SupervisionConfig = SupervisionConfig()
    """How actors are watched, replaced and let go."""
    ray: RayConfig = RayConfig()
    """The Ray cluster."""
    placement: Placement = Separated()
    """Who shares what."""
    wandb: WandbConfig | None = None
    """Weights & Biases; none: JSON lines, TensorBoard and Ray's metrics alone."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """In order; a finished stage is passed over when the same run is started again. An item of ``kind: repeat`` with
    ``rounds`` and ``stages`` stands for those stages several times over (cluster/repeat.py)."""

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, name: str) -> str:
        return StageBase._is_a_file_name(name)

    @field_validator("stages", mode="before")
    @classmethod
    def _without_repeats(cls, stages: Any) -> Any:
        return written_out(stages)

    @model_validator(mode="after")
    def _stages_name_earlier_stages(self) -> Self:
        seen: dict[str, str] = {}
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"stages: the name {stage.name!r} is used twice")
            for field, reference in stage_references(stage):
                kinds = _MADE_BY.get(field, ["dpo", "ppo", "sft"])
                if seen.get(reference) not in kinds:
                    wanted = " or ".join(kinds)
                    raise ValueError(f"stages.{stage.name}.{field}: {reference!r} is no earlier stage of kind {wanted}")
            seen[stage.name] = stage.kind
        return self

    @model_validator(mode="after")
    def _a_model_from_the_middle_of_a_stage_is_exported(self) -> Self:
        made = {stage.name: stage.export_steps for stage in self.stages if isinstance(stage, PPOStage)}
        for stage in self.stages:
            for field, name, step in exported_steps(stage):
                if step not in {str(one) for one in made.get(name, ())}:
                    raise ValueError(
                        f"stages.{stage.name}.{field}: stage {name!r} exports no model at step {step!r}; "
                        f"name the step in its export_steps"
                    )
        return self

    @model_validator(mode="after")
    def _a_reward_model_is_judged_by_what_no_forerunner_saw(self) -> Self:
        made = {stage.name: stage for stage in self.stages if isinstance(stage, RewardModelStage)}
        for stage in made.values():
            for field, reference in stage_references(stage):
                before = made.get(reference)
                if before is None:
                    continue
                if stage.held_out_seed != before.held_out_seed or stage.held_out_share > before.held_out_share:
                    raise ValueError(
                        f"stages.{stage.name}.held_out_share and held_out_seed hold out problems that {reference!r}, "
                        f"its {field}, has learned from: give both its seed ({before.held_out_seed}), and at most its "
                        f"share ({before.held_out_share:g})"
                    )
        return self

    @model_validator(mode="after")
    def _weights_are_given_to_all_or_none(self) -> Self:
        for stage in self.stages:
            weights = [source.weight for source in getattr(stage, "problems", ())]
            given = [weight for weight in weights if weight is not None]
            if given and not isinstance(stage, PPOStage):
                raise ValueError(f"stages.{stage.name}.problems: weight is for stages of kind ppo")
            if given and len(given) != len(weights):
                raise ValueError(f"stages.{stage.name}.problems: give every set a weight, or none")
        return self

    @model_validator(mode="after")
    def _scorers_take_what_is_sampled(self) -> Self:
        for stage in self.stages:
            if not isinstance(stage, PPOStage | MineStage | EvaluateStage) or not scored_by(stage):
                continue
            longest = stage.sampling.max_prompt_tokens + stage.sampling.max_new_tokens
            if longest > self.scorers.row_tokens:
                raise ValueError(
                    f"scorers.row_tokens {self.scorers.row_tokens} is less than prompt and answer of "
                    f"stages.{stage.name}.sampling may have ({longest} tokens)"
                )
        return self

    @model_validator(mode="after")
    def _one_gpu_is_shared_in_turns(self) -> Self:
        if not isinstance(self.placement, Colocated):
            return self
        engine = self.generators.engine
        if self.generators.count != 1 or engine.device != "cuda" or engine.tensor_parallel_size != 1:
            raise ValueError("placement colocated is one GPU: it needs generators.count 1, device cuda, no split")
        for stage in self.stages:
            if isinstance(stage, PPOStage) and stage.max_staleness:
                raise ValueError(f"placement colocated is synchronous: stages.{stage.name}.max_staleness must be 0")
            if isinstance(stage, PPOStage) and (stage.ranks, stage.gpus_per_rank) != (1, 1):
                raise ValueError(f"placement colocated is one GPU: stages.{stage.name} needs ranks 1, gpus_per_rank 1")
            if isinstance(stage, SFTStage | OneTrainerStage) and stage.gpus_per_rank:
                raise ValueError(
                    f"placement colocated has no GPU to spare: stages.{stage.name}.gpus_per_rank must be 0"
                )
        return self

    @model_validator(mode="after")
    def _transports_fit_the_placement(self) -> Self:
        transport, shared = self.generators.engine.weight_transport, isinstance(self.placement, Colocated)
        if transport == "ipc" and not shared:
            raise ValueError("weight_transport ipc needs placement colocated; use per_node")
        if transport == "nccl" and shared:
            raise ValueError("weight_transport nccl needs a GPU for each side; placement colocated has one: use ipc")
        if transport == "nccl":
            on_cpu = [stage.name for stage in self.stages if isinstance(stage, PPOStage) and not stage.gpus_per_rank]
            if on_cpu:
                raise ValueError(f"weight_transport nccl needs stages.{on_cpu[0]}.gpus_per_rank 1; or use per_node")
        return self

    @property
    def run_folder(self) -> Path:
        return self.folder / self.name

    @property
    def trainer_processes(self) -> int:
        """Processes of the largest trainer; each reserves ``trainer_resources``."""
        return max([stage.ranks for stage in self.stages if isinstance(stage, SFTStage | PPOStage)], default=1)

    @property
    def trainer_resources(self) -> dict[str, float]:
        """What each process of the trainer reserves at most, in Ray's terms."""
        trained = [stage for stage in self.stages if isinstance(stage, SFTStage | PPOStage | OneTrainerStage)]
        gpus = max([stage.gpus_per_rank for stage in trained], default=0)
        return {"CPU": 1.0} | ({"GPU": float(gpus)} if gpus else {})
