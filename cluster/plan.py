"""``crucible plan``: what a recipe would do and need, and whether a cluster can hold it now. Starts no actor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from cluster import memory
from cluster.checks import check_all
from cluster.config import RunConfig
from cluster.errors import ClusterError, ConfigError
from cluster.geometry import Geometry, geometry_of, warnings_of
from cluster.inputs import models_are_here, problems_of
from cluster.leakage import ProblemSplit
from cluster.memory import Estimate, ModelShape, size
from cluster.nodes import probe_nodes
from cluster.placement import SANDBOX_RESOURCE, Node, Place, bundles_of, cluster_nodes, place, shortfall
from cluster.stage_config import STAGE_PREFIX, STEP_MARK, DPOStage, LineLabelsStage, PPOStage, SFTStage, Stage
from learner.model_config import ComputeConfig
from problems.synthetic import parse_synthetic

_ROLES = {"trainer": 1, "fine-tuner": 1}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the command prints.

    Attributes:
        geometries: ppo stage -> its batch geometry.
        estimates: memory of each role, at its fullest stage; one process of each.
        places: where each bundle would go.
        where: what the places were sought on.
        missing: what this machine or cluster lacks, one sentence each.
        warnings: settings that may end a run later.
        split: what is trained on and what is evaluated on; None where an input is not here, and neither leakage nor
            tokenizers could be looked at.
    """

    config: RunConfig
    geometries: dict[str, Geometry]
    estimates: list[Estimate]
    places: list[Place]
    where: str
    missing: list[str]
    warnings: list[str]
    split: ProblemSplit | None


def make_plan(config: RunConfig) -> Plan:
    """Plans on the joined cluster, or on this machine where ``config`` names no cluster.

    Raises ClusterError if the cluster that is named cannot be joined, and ConfigError for what ``run`` would refuse of
    its inputs. Inputs that are not here are listed as missing: a recipe for a cluster may be planned on a laptop.
    """
    from cluster.session import cluster_address, joined

    address = cluster_address(config.ray)
    stages = [stage for stage in config.stages if isinstance(stage, PPOStage)]
    warnings = [
        f"stages.{stage.name}: {text}"
        for stage in stages
        for text in warnings_of(stage, config.generators.engine.max_model_len)
    ]
    missing = missing_inputs(config.stages)
    shapes, unknown = _shapes(config)
    missing += unknown
    is_all_here = not missing and models_are_here(config.stages)
    split = check_all(config.generators.engine, config.stages) if is_all_here else None
    if address:
        with joined(address):
            nodes, found = cluster_nodes(), probe_nodes(config.run_folder)
        estimates = _estimates(config, shapes, gpu_bytes=None)
        missing += found
    else:
        nodes = [this_machine(config)]
        estimates = _estimates(config, shapes, gpu_bytes=_gpu_bytes())
        missing += _memory_shortfall(config, estimates)
    places = place(bundles_of(config), nodes)
    missing += [text for text in [shortfall(places)] if text]
    where = f"the cluster at {address}: {len(nodes)} nodes" if address else "this machine"
    geometries = {stage.name: geometry_of(stage) for stage in stages}
    return Plan(config, geometries, estimates, places, where, missing, warnings, split)


def this_machine(config: RunConfig) -> Node:
    """What a cluster of our own would have: processors and sandboxes are counted as asked, GPUs as they are."""
    asked = [bundle.resources for bundle in bundles_of(config)]
    cpus = sum(resources.get("CPU", 0.0) for resources in asked)
    total = {
        "CPU": max(cpus, float(os.cpu_count() or 1)),
        SANDBOX_RESOURCE: float(config.executors.count),
        "GPU": float(_num_gpus()),
    }
    return Node("this machine", total, total)


def missing_inputs(stages: Sequence[Stage]) -> list[str]:
    """Problem files that cannot be read here, one sentence each."""
    missing: list[str] = []
    for stage in stages:
        for source in getattr(stage, "problems", ()):
            kind, _, fields = source.spec.partition(":")
            try:
                # Parsed, not drawn: that takes seconds, and is done once all is known to be here.
                parse_synthetic(fields) if kind == "synthetic" else problems_of([source])
            except (ConfigError, ValueError) as error:
                missing.append(f"stages.{stage.name}.problems: {error}")
    return missing


def _num_gpus() -> int:
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    return NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()


def _gpu_bytes() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _shapes(config: RunConfig) -> tuple[dict[str, ModelShape], list[str]]:
    """Stage -> shape of the model that it trains or samples from, and what could not be read."""
    shapes: dict[str, ModelShape] = {}
    unknown: list[str] = []
    for stage in config.stages:
        reference = model_reference(stage)
        if reference is not None and reference.startswith(STAGE_PREFIX):
            source = shapes.get(reference.removeprefix(STAGE_PREFIX).partition(STEP_MARK)[0])
            if source is not None:
                shapes[stage.name] = source
            continue
        try:
            shapes[stage.name] = _shape(stage, reference)
        except (OSError, ValueError) as error:
            why = (str(error).strip().splitlines() or ["unknown"])[0]
            unknown.append(f"stages.{stage.name}: the config of model {reference!r} cannot be read here ({why})")
    return shapes, unknown


def model_reference(stage: Any) -> str | None:
    """What a stage starts from or evaluates: ``stage:NAME``, a folder, a hub's id; None where it makes a model."""
    if isinstance(stage, LineLabelsStage):
        return stage.policies[0]
    return next((getattr(stage, field) for field in ("base", "policy", "model") if hasattr(stage, field)), None)


def _shape(stage: Stage, reference: str | None) -> ModelShape:
    from transformers import AutoConfig

    if reference is not None:
        return ModelShape.of(AutoConfig.from_pretrained(reference))
    from learner.models import llama_config

    assert isinstance(stage, SFTStage), f"stage {stage.name} neither names nor makes a model"
    return ModelShape.of(llama_config(stage.new_model, vocab_size=stage.vocab_size))


def _device(gpus_per_rank: int, compute: ComputeConfig) -> str:
    """Of a trainer: a GPU that is reserved may still be left alone."""
    return "cuda" if gpus_per_rank and compute.device != "cpu" else "cpu"


def _estimates(config: RunConfig, shapes: dict[str, ModelShape], gpu_bytes: int | None) -> list[Estimate]:
    """The largest of each role over the stages whose model is known."""
    found: dict[str, Estimate] = {"executor": memory.executor(config.executors)}
    for stage in config.stages:
        shape = shapes.get(stage.name)
        if shape is None:
            continue
        candidates: list[Estimate] = []
        if isinstance(stage, SFTStage | DPOStage):
            ranks = stage.ranks if isinstance(stage, SFTStage) else 1
            device = _device(stage.gpus_per_rank, stage.train.compute)
            candidates.append(memory.fine_tuner(shape, stage.train, ranks=ranks, device=device))
        else:
            candidates.append(memory.generator(shape, config.generators.engine, gpu_bytes))
        if isinstance(stage, PPOStage):
            device = _device(stage.gpus_per_rank, stage.learner.compute)
            candidates.append(memory.ppo_trainer(shape, stage.learner, ranks=stage.ranks, device=device))
            if device == "cuda":
                candidates.append(memory.host_of_ppo_trainer(shape, stage.learner, ranks=stage.ranks))
            shm = {"two versions and the next": memory.published(shape)}
            candidates.append(Estimate("published weights", "/dev/shm", shm, "on each node with a generator"))
        for estimate in candidates:
            if estimate.who not in found or found[estimate.who].total < estimate.total:
                found[estimate.who] = estimate
    return list(found.values())


def host_bytes(config: RunConfig, estimates: Sequence[Estimate]) -> int:
    """Host memory of all processes on one machine: fine-tuner and trainer are never there together."""
    counts = {"generator": config.generators.count, "executor": config.executors.count}
    trainers = [estimate.total for estimate in estimates if estimate.who in _ROLES and estimate.device == "cpu"]
    others = [
        estimate.total * counts.get(estimate.who, 1)
        for estimate in estimates
        if estimate.who not in _ROLES and estimate.device in {"cpu", "/dev/shm"}
    ]
    return sum(others) + max(trainers, default=0)


def _memory_shortfall(config: RunConfig, estimates: Sequence[Estimate]) -> list[str]:
    needed = host_bytes(config, estimates) + int(config.ray.memory_reserve_gb * 2**30)
    available = psutil.virtual_memory().available
    if available >= needed:
        return []
    return [
        f"this run needs about {size(needed)} of memory and this machine has {size(available)} available; "
        "lower generators.count, or end other programs"
    ]


def require_memory(config: RunConfig) -> None:
    """Raises ClusterError if this machine has less memory available than the run is estimated to need."""
    shapes, _ = _shapes(config)
    for text in _memory_shortfall(config, _estimates(config, shapes, _gpu_bytes())):
        raise ClusterError(text)


def print_plan(plan: Plan, console: Console) -> None:
    """The resolved config, then problems, geometry, memory, bundles, and the verdict."""
    console.print("[bold]resolved config[/]")
    console.print(yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False), highlight=False, markup=False)
    unseen = "an input is not here: whether they leak, and whether all tokenizers are one, is looked at when it runs"
    console.print(f"[bold]problems[/] {plan.split or unseen}", highlight=False, soft_wrap=True)
    for name, geometry in plan.geometries.items():
        _print_geometry(name, geometry, plan.config, console)
    _print_memory(plan, console)
    _print_places(plan, console)
    for text in plan.warnings:
        console.print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)
    if plan.missing:
        console.print(f"[bold]the config is sound; missing on {plan.where}[/]", highlight=False, soft_wrap=True)
        for text in plan.missing:
            console.print(f"  - {text}", highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(f"[bold]the config is sound, and {plan.where} can hold it now[/]", highlight=False)


def _print_geometry(name: str, geometry: Geometry, config: RunConfig, console: Console) -> None:
    stage = next(stage for stage in config.stages if stage.name == name)
    assert isinstance(stage, PPOStage)
    kept = f"{geometry.kept_most}"
    if geometry.kept_least != geometry.kept_most:
        kept = f"{geometry.kept_least} to {geometry.kept_most}"
    console.print(f"[bold]batch geometry of stage {name}[/], one learner step of {stage.learner.num_steps}")
    lines = [
        f"{geometry.prompts} prompts x {geometry.samples} samples = {geometry.trajectories} trajectories "
        f"of at most {geometry.trajectory_tokens} tokens",
        f"-> {kept} kept (filter {stage.learner.filter.kind})",
        f"-> mini-batches of {geometry.minibatch}, each in at most {geometry.rows_most} micro-batches "
        f"(rows of {stage.learner.row_tokens} tokens)",
        f"-> {geometry.optimizer_steps} optimizer steps ({stage.learner.epochs} epochs)",
        f"at most {geometry.in_flight} groups in flight (max_staleness {stage.max_staleness}); "
        f"{geometry.rollouts} rollouts in the whole stage",
    ]
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _print_memory(plan: Plan, console: Console) -> None:
    counts = {"generator": plan.config.generators.count, "executor": plan.config.executors.count}
    console.print("[bold]memory[/], estimated for one process of each role")
    table = Table("role", "count", "where", "total", "of which", box=None, pad_edge=False)
    for estimate in plan.estimates:
        parts = ", ".join(f"{name} {size(part)}" for name, part in estimate.parts.items())
        note = f"\n{estimate.note}" if estimate.note else ""
        count = str(counts.get(estimate.who, 1))
        table.add_row(estimate.who, count, estimate.device, size(estimate.total), parts + note)
    console.print(table)


def _print_places(plan: Plan, console: Console) -> None:
    console.print(f"[bold]bundles[/], on {plan.where}", highlight=False)
    table = Table("actor", "reserves", "can be held now", box=None, pad_edge=False)
    for placed in plan.places:
        table.add_row(placed.bundle.who, str(placed.bundle), placed.node or f"no: {placed.reason}")
    console.print(table)


def plan_command(config: RunConfig, address: str | None, console: Console) -> bool:
    """Prints the plan; returns whether everything that the run needs is there now."""
    if address is not None:
        config = replace_address(config, address)
    plan = make_plan(config)
    print_plan(plan, console)
    return not plan.missing


def replace_address(config: RunConfig, address: str) -> RunConfig:
    """The same run on another cluster."""
    return config.model_copy(update={"ray": config.ray.model_copy(update={"address": address})})
