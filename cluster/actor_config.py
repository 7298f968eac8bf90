"""Settings of the actors: how many, what each reserves, how they are watched, who shares what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from actors.config import GeneratorConfig
from cluster.settings import Settings
from learner.model_config import ComputeConfig
from sandbox.config import SandboxConfig


class SupervisionConfig(Settings):
    """How actors are watched, replaced and let go."""

    health_every_s: float = Field(default=5.0, gt=0)
    """Seconds between health checks."""
    health_timeout_s: float = Field(default=120.0, gt=0)
    """An actor that has not answered its health check after so many seconds is killed and replaced. The death of a
    process is known at once; this is for what is stuck, and a machine that is merely busy (a load of ten on each core
    was seen to hold answers up for more than 30 s) must not look like it."""
    restart_delay_s: float = Field(default=1.0, ge=0)
    """Seconds until a replacement that did not come up is tried again; doubled each time."""
    max_restart_delay_s: float = Field(default=60.0, ge=0)
    """Largest such delay."""
    max_failed_starts: int = Field(default=3, ge=1)
    """So many replacements in a row that do not come up end the run, if no actor of the kind has served for as long as
    a start may take."""
    leave_timeout_s: float = Field(default=60.0, ge=0)
    """Seconds that an actor which leaves may finish what it holds; the rest is handed back and issued again."""
    close_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds for an actor to end in order before it is killed."""
    last_save_timeout_s: float = Field(default=540.0, gt=0)
    """Seconds for the checkpoint of a run that is told to stop: the step in progress and the write. Ray and Kubernetes
    wait ten minutes before they kill."""
    trainer_timeout_s: float = Field(default=1800.0, gt=0)
    """Seconds for one call of the trainer, such as a step, the critic's warm-up or an export. A rank that died or
    answers no health check is noticed long before; this is for ranks that wait for each other."""
    max_trainer_losses: int = Field(default=3, ge=1)
    """So many losses of the trainer without a new checkpoint in between end the run."""


class GeneratorsConfig(Settings):
    """The generators: vLLM engines in Ray actors."""

    count: int = Field(default=2, ge=1)
    """How many."""
    engine: GeneratorConfig = GeneratorConfig()
    """Settings of each."""
    start_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds until an engine that does not come up is an error."""
    push_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for a weight push into one engine; one that takes longer is named, killed and replaced."""
    push_grace_s: float = Field(default=5.0, ge=0)
    """Once one engine has new weights, the run waits so many seconds for the others. Who is late is set aside: what it
    holds is issued again elsewhere, and it serves again when it has caught up."""

    @property
    def resources(self) -> dict[str, float]:
        """What each reserves of the cluster, in Ray's terms."""
        gpus = float(self.engine.tensor_parallel_size) if self.engine.device == "cuda" else 0.0
        return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


class ExecutorsConfig(Settings):
    """The executors: sandboxes in Ray actors. Each needs one of the cluster's ``sandbox`` resource."""

    count: int = Field(default=1, ge=1)
    """How many actors."""
    sandbox: SandboxConfig = SandboxConfig()
    """Settings of each."""
    start_timeout_s: float = Field(default=180.0, gt=0)
    """Seconds until an executor that does not come up is an error."""
    quarantine_after: int = Field(default=3, ge=1)
    """Verdicts of ``infrastructure_error`` in a row after which an executor is taken out, and a new one started."""
    set_aside_after: int = Field(default=3, ge=1)
    """A problem whose programs were in flight when so many executors died is executed no more in this run."""


class ScorersConfig(Settings):
    """The scorers: models with a scalar head in Ray actors, for reward terms and for reranking."""

    count: int = Field(default=1, ge=1)
    """How many for each model."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs of each."""
    num_gpus: float = Field(default=0.0, ge=0)
    """Ray GPUs of each."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch in each."""
    batch_answers: int = Field(default=256, ge=1)
    """Most answers that one call scores; what waits is scored together."""
    row_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one packed row; a longer answer is an error, never cut."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and device. A GPU is seen only where ``num_gpus`` reserves one."""
    placement: Literal["device", "host"] = "device"
    """Where a model waits. ``host``: it comes to the device for a batch only, such as beside others on one GPU."""
    judge: GeneratorConfig = GeneratorConfig(max_model_len=2048, max_num_seqs=32)
    """The engine of a ``judge`` term's language model; a longer question is not asked, and counted."""

    @property
    def resources(self) -> dict[str, float]:
        """Ray resources that one scorer reserves."""
        return {name: amount for name, amount in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if amount}

    @property
    def judge_resources(self) -> dict[str, float]:
        """Ray resources that one judge reserves: as a generator with its engine would."""
        return GeneratorsConfig(engine=self.judge).resources


class Separated(Settings):
    """Every actor reserves its own resources; generators and trainer work at the same time."""

    kind: Literal["separated"] = "separated"


class Colocated(Settings):
    """Trainer and generator take turns on one GPU: synchronous. The engine sleeps while the trainer computes; what the
    trainer holds between its steps must fit beside the engine (``gpu_memory_utilization``). Never run with a GPU."""

    kind: Literal["colocated"] = "colocated"


Placement = Annotated[Separated | Colocated, Field(discriminator="kind")]
