"""Runs a recipe in a folder that one driver holds: what is done is passed over, what is open is run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from cluster.checks import check_all
from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.run_folder import Finished, RunFolder, digest
from cluster.stage_config import DPOStage, PPOStage, SFTStage

T = TypeVar("T")

# Fields that change nothing in what the run computes, and so may differ when it goes on.
_FREE_FIELDS = {"ray", "folder", "executors", "generators", "placement", "supervision", "wandb"}


def run_recipe(config: RunConfig, console: Console | None = None) -> list[Finished]:
    """Runs all stages that are not done yet; prints the summary; returns all manifests."""
    console = console or Console()
    folder = RunFolder(config.run_folder)
    with folder.locked():
        resolved = config.model_dump(mode="json")
        folder.save_config(resolved, {key: value for key, value in resolved.items() if key not in _FREE_FIELDS})
        finished = _finished_stages(config, folder)
        if len(finished) < len(config.stages):
            finished = _run_open_stages(config, folder, finished, console)
        from cluster.report import write_report

        report = write_report(folder.root)
        _print_summary(config, folder, finished, console)
        console.print(f"report      {report}", highlight=False, soft_wrap=True)
    return finished


def _finished_stages(config: RunConfig, folder: RunFolder) -> list[Finished]:
    """The leading stages that are done. A done stage whose own config changed cannot be gone on from."""
    finished: list[Finished] = []
    for stage in config.stages:
        manifest = folder.stage(stage.name).manifest()
        if manifest is None:
            break
        if manifest["config"] != digest(stage.model_dump(mode="json")):
            raise ConfigError(f"stages.{stage.name} is done with another config; give this run another name")
        finished.append(Finished(stage.name, stage.kind, manifest))
    return finished


def _run_open_stages(
    config: RunConfig, folder: RunFolder, finished: Sequence[Finished], console: Console
) -> list[Finished]:
    split = check_all(config.generators.engine, config.stages, len(finished))
    console.print(f"run {config.name}: {folder.root}", highlight=False, soft_wrap=True)
    console.print(f"problems: {split}", highlight=False, soft_wrap=True)
    # Here, not above: Ray, torch and transformers take seconds, and what is refused is refused before them.
    from cluster.placement import bundles_of
    from cluster.plan import require_memory
    from cluster.session import cluster_address, ray_session
    from cluster.stages.run import run_stages

    if not cluster_address(config.ray):
        require_memory(config)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with ray_session(config.ray, bundles=bundles_of(config), folder=folder.root, say=say):
        return run_until_told(run_stages(config, folder, list(finished), console))


def run_until_told(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``, with SIGTERM for the work alone, as Ctrl-C has it.

    Without that, where SIGINT is ignored (under nohup, or behind a script's ``&``), an interruption would cancel every
    task at once, and with them the one that is writing a checkpoint. Raises KeyboardInterrupt when it was told to stop.
    """

    async def listening() -> T:
        task = asyncio.current_task()
        assert task is not None
        before = signal.getsignal(signal.SIGTERM)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await work
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, before)

    try:
        return asyncio.run(listening())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _print_summary(config: RunConfig, folder: RunFolder, finished: Sequence[Finished], console: Console) -> None:
    """Table of all evaluations (± half a 95 % interval; differences are paired by problem), and the last model.

    Two of the measures stand without their intervals: the table fits 80 columns, which is all that a log has.
    """
    table = Table("evaluation", "compiles", "executes", "sampled pass@1", "greedy pass@1", "difference", box=None)
    for done in finished:
        if done.kind == "evaluate":
            figures = done.manifest["figures"]
            difference = figures.get("difference", {}).get("sampled_pass_at_1")
            programs = figures.get("sampled") or figures.get("greedy") or {}
            table.add_row(
                done.name,
                _mean(programs.get("compiles")),
                _mean(programs.get("executes")),
                _cell(figures.get("sampled_pass_at_1")),
                _cell(figures.get("greedy_pass_at_1")),
                _cell(difference, signed=True),
            )
    if table.row_count:
        console.print(table)
    models = [stage.name for stage in config.stages if isinstance(stage, SFTStage | PPOStage | DPOStage)]
    if models:
        console.print(f"checkpoint  {folder.stage(models[-1]).model}", highlight=False, soft_wrap=True)


def _mean(estimate: dict[str, float] | None) -> str:
    return "" if estimate is None else f"{estimate['mean']:.3f}"


def _cell(estimate: dict[str, float] | None, *, signed: bool = False) -> str:
    if estimate is None:
        return ""
    sign = "+" if signed else ""
    half = (estimate["high"] - estimate["low"]) / 2
    return f"{estimate['mean']:{sign}.3f} ± {half:.3f}"
