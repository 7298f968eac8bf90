"""What the stages of a run share: config, folder, metrics, panel, pools, and the model that is being served."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from actors.errors import WeightTransportError
from actors.executor import Execution
from actors.lines import append_line
from actors.terms import RewardTerm
from actors.weights import ShmSender, bucketed
from cluster.actor_config import Colocated, GeneratorsConfig
from cluster.config import RunConfig
from cluster.errors import ActorError
from cluster.executor_pool import ExecutorPool
from cluster.generator_pool import GeneratorPool
from cluster.inputs import resolve_model
from cluster.metrics import Metrics
from cluster.panel import Panel
from cluster.placement import reserve_shared_gpu
from cluster.relay import of_this_node
from cluster.rollout import Rollout
from cluster.run_folder import RunFolder
from cluster.scaling import Control
from cluster.stage_config import SamplingConfig
from cluster.tokenizers import LoadedTokenizer, load_tokenizer
from cluster.waiting import tell_who_waits
from problems.compiling import CompileSuite
from problems.identity import WeightsVersion
from problems.problem import Limits
from sandbox.verdict import Program, Verdict

_COMPILE_ONLY, _COMPILE_LIMITS = CompileSuite(), Limits()  # resident compilers have limits of their own
# Fields of a config.json that say nothing about the shape of the weights.
_NOT_SHAPE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}


class RunContext:
    """Owns the pools; stages come and go."""

    def __init__(self, config: RunConfig, folder: RunFolder, metrics: Metrics, panel: Panel) -> None:
        self.config = config
        self.folder = folder
        self.metrics = metrics
        self.panel = panel
        self.shares_gpu = isinstance(config.placement, Colocated)
        self.where = reserve_shared_gpu() if self.shares_gpu else {}
        self.generators = GeneratorPool(_generators(config), config.supervision, self.report, where=self.where)
        self.executors = ExecutorPool(config.executors, config.supervision, self.report)
        self._sender: ShmSender | None = None
        self._served_shape: Any = None

    def report(self, who: str, what: str, why: str) -> None:
        """Something happened to an actor or a problem: to the run's folder, and to who watches."""
        append_line(self.folder.events, {"time": time.time(), "who": who, "what": what, "why": why}, sync=False)
        if what != "serves":
            self.panel.say(f"{who}: {what}" + (f": {why}" if why else ""))

    async def watch(self) -> None:
        """Supervises all actors of the pools and hears what people ask of the run. Ends only by an error."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self.generators.roster.watch())
            loops.create_task(self.executors.roster.watch())
            loops.create_task(Control(self).serve())
            loops.create_task(tell_who_waits(self.report))

    def model_path(self, reference: str) -> Path:
        """The folder of a model: of an earlier stage, on disk, or fetched from the hub."""
        return resolve_model(reference, self.folder)

    def tokenizer(self, model: Path) -> LoadedTokenizer:
        """The tokenizer in a model's folder."""
        return load_tokenizer(model, self.config.prompt)

    async def serve(self, model: Path, version: WeightsVersion, *, others_follow: bool = False) -> None:
        """Makes the generators sample with the weights in ``model``: by a push where the shape is the same, and the
        engines take files. ``others_follow``: weights of that shape are pushed next; engines that serve wait for them.
        """
        shape = _shape(model)
        takes_files = self.config.generators.engine.weight_transport in ("per_node", "shm")
        if self.generators.running and shape == self._served_shape and takes_files:
            if not (others_follow and self.generators.roster.serving):
                await self.generators.push(await self._published(model, version), version)
            return
        await self.generators.stop()
        await self.generators.start(model, version)
        self._served_shape = shape

    async def _published(self, model: Path, version: WeightsVersion) -> dict[str, str]:
        """The ticket of a Hugging Face folder's weights. Raises ActorError where they do not fit."""

        def publish() -> dict[str, str]:
            if self._sender is None:
                self._sender = ShmSender(self.config.name)
            return self._sender.publish(version, bucketed(_tensors(model)))

        try:
            return of_this_node(await asyncio.to_thread(publish))  # gigabytes: health checks go on meanwhile
        except WeightTransportError as error:
            raise ActorError(f"the driver could not publish {model}: {error}") from error

    def rollout(
        self, loaded: LoadedTokenizer, sampling: SamplingConfig, terms: list[RewardTerm], *, execute_cut: bool
    ) -> Rollout:
        return Rollout(
            self.generators,
            self.executors,
            terms=terms,
            style=loaded.style,
            tokenizer=loaded.tokenizer,
            token_bytes=loaded.token_bytes,
            sampling=sampling,
            execute_cut=execute_cut,
            metrics=self.metrics,
        )

    async def check(self, program: Program) -> Verdict:
        """Compiles a program on an executor, and does not run it."""
        # Known by itself: one program that ends executors must not set all others aside.
        name = f"compile/{hashlib.blake2b(program.source, digest_size=8).hexdigest()}"
        work = Execution(program, _COMPILE_ONLY, _COMPILE_LIMITS, stop_at_first_failure=True, problem_id=name)
        return (await self.executors.run(work)).verdict

    async def close(self) -> None:
        """Ends every actor of the pools and frees published weights."""
        await self.generators.stop()
        await self.executors.stop()
        if self._sender is not None:
            self._sender.close()


def _generators(config: RunConfig) -> GeneratorsConfig:
    """As the recipe has them; an engine that shares its GPU can sleep."""
    if not isinstance(config.placement, Colocated):
        return config.generators
    engine = config.generators.engine.model_copy(update={"sleep_mode": True})
    return config.generators.model_copy(update={"engine": engine})


def _shape(model: Path) -> Any:
    config = json.loads((model / "config.json").read_text())
    return {key: value for key, value in config.items() if key not in _NOT_SHAPE}


def _tensors(model: Path) -> Any:
    from safetensors import safe_open

    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                yield name, weights.get_tensor(name)
