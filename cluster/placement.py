"""Which bundles of resources a run reserves, whether a cluster can hold them now, and if not, why not.

A bundle is what one actor reserves, and one node must hold it whole: a generator's GPUs lie inside one node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.actor_config import Colocated
from cluster.config import RunConfig
from cluster.errors import ClusterError
from cluster.stage_config import compared_by, scored_by

SANDBOX_RESOURCE = "sandbox"
WITHOUT_EXECUTION = {"sft", "reward_model", "dpo", "process_reward_model"}
"""Kinds of stages that sample and execute nothing."""
SHARED_GPU = {"CPU": 2.0, "GPU": 1.0}
"""Where trainer and generator take turns: one bundle, so that Ray gives both the same GPU."""
SHARE = 0.5
"""Of that GPU, to each of the two."""
_POLL_S = 2.0
_SAY_EVERY_S = 10.0
_ROUNDING = 1e-6  # Ray keeps resources as multiples of 1e-4

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one actor reserves; ``who`` names the actor."""

    who: str
    resources: Resources

    def __str__(self) -> str:
        return _amounts(self.resources)


@dataclass(frozen=True, slots=True)
class Node:
    """One node as it is now.

    Attributes:
        name: address or another name that a person can find it by.
        total: all that it has.
        free: what nobody has reserved.
        users: resource -> who holds how much of it.
    """

    name: str
    total: Resources
    free: Resources
    users: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict[str, Sequence[tuple[str, float]]])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bundle would go: ``node``, or None and the reason in one sentence."""

    bundle: Bundle
    node: str | None
    reason: str = ""


def bundles_of(config: RunConfig) -> list[Bundle]:
    """What the run holds at its fullest: stages come one after the other, generators and executors stay."""
    bundles: list[Bundle] = []
    rollouts = any(stage.kind not in WITHOUT_EXECUTION for stage in config.stages)
    shared = isinstance(config.placement, Colocated)
    if shared:
        bundles.append(Bundle("trainer and generator-0 (one GPU)", SHARED_GPU))
        if any(stage.kind not in {"evaluate", "ppo"} for stage in config.stages):
            bundles.append(Bundle("trainer of other stages", {"CPU": 1.0}))
    elif any(stage.kind != "evaluate" for stage in config.stages):
        ranks = config.trainer_processes
        held = config.trainer_resources
        bundles += [Bundle("trainer" if ranks == 1 else f"trainer-{i}", held) for i in range(ranks)]
    if rollouts:
        if not shared:
            bundles += [Bundle(f"generator-{i}", generator_resources(config)) for i in range(config.generators.count)]
        bundles += [Bundle(f"executor-{i}", {SANDBOX_RESOURCE: 1.0}) for i in range(config.executors.count)]
    models = max(len(scored_by(stage)) for stage in config.stages)  # at a time
    bundles += [Bundle(f"scorer-{i}", config.scorers.resources) for i in range(models * config.scorers.count)]
    comparing = {term.kind for stage in config.stages for term in compared_by(stage)}
    if "comparison" in comparing:
        bundles += [Bundle(f"comparer-{i}", config.scorers.resources) for i in range(config.scorers.count)]
    if "judge" in comparing:
        bundles += [Bundle(f"judge-{i}", config.scorers.judge_resources) for i in range(config.scorers.count)]
    return bundles


def generator_resources(config: RunConfig) -> dict[str, float]:
    """Of one engine: a processor for the actor, and all GPUs of its tensor parallelism."""
    return config.generators.resources


def place(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> list[Place]:
    """Puts each bundle on a node, scarce resources first, and says of those that find none why."""
    free = [dict(node.free) for node in nodes]
    places: dict[int, Place] = {}
    order = sorted(range(len(bundles)), key=lambda i: _scarcity(bundles[i].resources), reverse=True)
    for index in order:
        bundle = bundles[index]
        fitting = [which for which, left in enumerate(free) if _fits(bundle.resources, left)]
        if not fitting:
            places[index] = Place(bundle, None, _why_not(bundle, nodes, free))
            continue
        chosen = min(fitting, key=lambda which: _scarcity(free[which]))  # what is rich in GPUs stays for those in need
        for name, amount in bundle.resources.items():
            free[chosen][name] -= amount
        places[index] = Place(bundle, nodes[chosen].name)
    return [places[index] for index in range(len(bundles))]


def _scarcity(resources: Resources) -> tuple[float, float, float]:
    custom = sum(amount for name, amount in resources.items() if name == SANDBOX_RESOURCE)
    return resources.get("GPU", 0.0), custom, resources.get("CPU", 0.0)


def _fits(asked: Resources, free: Resources) -> bool:
    return all(free.get(name, 0.0) >= amount - _ROUNDING for name, amount in asked.items())


def _why_not(bundle: Bundle, nodes: Sequence[Node], free: Sequence[Resources]) -> str:
    """Names the resource, how much is asked, how much there is, and who has it."""
    for name, amount in bundle.resources.items():
        total = sum(node.total.get(name, 0.0) for node in nodes)
        largest = max((node.total.get(name, 0.0) for node in nodes), default=0.0)
        if total < amount - _ROUNDING:
            return f"asks {amount:g} of resource {name!r} and the cluster has {total:g}"
        if largest < amount - _ROUNDING:
            return f"asks {amount:g} of resource {name!r} on one node and the largest node has {largest:g}"
    for name, amount in bundle.resources.items():
        if max(left.get(name, 0.0) for left in free) < amount - _ROUNDING:
            return f"asks {amount:g} of resource {name!r}; {_usage(name, nodes, free)}"
    per_node = "; ".join(
        f"{node.name} has {_amounts(left, bundle.resources)} free" for node, left in zip(nodes, free, strict=True)
    )
    return f"asks {_amounts(bundle.resources)} on one node: {per_node}"


def _usage(name: str, nodes: Sequence[Node], free: Sequence[Resources]) -> str:
    """Of each node that has the resource: how much is free, and who holds the rest."""
    parts: list[str] = []
    for node, unplanned in zip(nodes, free, strict=True):
        total, left = node.total.get(name, 0.0), unplanned.get(name, 0.0)
        if total <= 0:
            continue
        holders = [f"{who} {amount:g}" for who, amount in node.users.get(name, ())]
        planned = node.free.get(name, 0.0) - left
        others = total - left - planned - sum(amount for _, amount in node.users.get(name, ()))
        holders += [f"others {others:g}"] if others > _ROUNDING else []
        holders += [f"this run's other actors {planned:g}"] if planned > _ROUNDING else []
        parts.append(f"{node.name} has {left:g} of {total:g} free" + (f" (held: {', '.join(holders)})" * bool(holders)))
    return "; ".join(parts)


def _amounts(resources: Resources, only: Resources | None = None) -> str:
    return ", ".join(f"{name} {resources.get(name, 0.0):g}" for name in (only or resources))


def shortfall(places: Sequence[Place]) -> str:
    """One sentence for all bundles that found no node; empty if each found one."""
    missing = [place for place in places if place.node is None]
    if not missing:
        return ""
    first = missing[0]
    more = f" (and {len(missing) - 1} more that cannot be placed)" if len(missing) > 1 else ""
    return f"{first.bundle.who} {first.reason}{more}"


def require_room(bundles: Sequence[Bundle], wait_s: float, say: Callable[[str], None]) -> None:
    """Returns when the joined cluster can hold all bundles.

    What it lacks is asked of Ray's autoscaler, and told through ``say`` every ten seconds, until ``wait_s`` seconds are
    over. Raises ClusterError with the reason then; at once if ``wait_s`` is 0.
    """
    from cluster.autoscaler import ask_autoscaler

    begun = time.monotonic()
    said = -_SAY_EVERY_S
    while lack := shortfall(place(bundles, cluster_nodes())):
        waited = time.monotonic() - begun
        if waited >= wait_s:
            raise ClusterError(
                f"the cluster cannot hold this run: {lack}; start a node with what is missing (ray start --resources), "
                "lower the counts in the recipe, or let the run wait (ray.wait_for_resources_s)"
            )
        if waited - said >= _SAY_EVERY_S:
            said = waited
            say(f"waiting for room in the cluster ({waited:.0f} of at most {wait_s:.0f} s): {lack}")
            ask_autoscaler(bundles)
        time.sleep(min(_POLL_S, max(wait_s - waited, 0.05)))


def reserve_shared_gpu() -> dict[str, Any]:
    """Reserves ``SHARED_GPU`` until Ray is left; returns the options of the actors that share it."""
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([SHARED_GPU])
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)}


def cluster_nodes() -> list[Node]:
    """The living nodes of the cluster that this process has joined."""
    import ray
    from ray._private.state import state

    free, users = state.available_resources_per_node(), _users()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [
        Node(
            f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
            node["Resources"],
            free.get(node["NodeID"], {}),
            users.get(node["NodeID"], {}),
        )
        for node in alive
    ]


def _users() -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Node id -> resource -> (holder, amount): placement groups, and actors outside of any. Tasks are not listed."""
    from ray._private.state import state

    users: dict[str, dict[str, list[tuple[str, float]]]] = {}

    def add(node: str, who: str, resources: Mapping[str, float]) -> None:
        for name, amount in resources.items():
            users.setdefault(node, {}).setdefault(name, []).append((who, amount))

    for actor in actor_rows("ALIVE"):
        if not actor.placement_group_id:
            label = actor.name or actor.class_name
            add(actor.node_id.hex(), f"{label} of job {actor.job_id.hex()}", actor.required_resources)
    for group in state.placement_group_table(None).values():
        if group["state"] == "CREATED":
            for index, node in group["bundles_to_node_id"].items():
                add(
                    node, f"placement group {group['name'] or group['placement_group_id'][:8]}", group["bundles"][index]
                )
    return users


def actor_rows(state_name: str) -> list[Any]:
    """Ray's records of the cluster's actors in a state, such as "ALIVE"."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    actor_row: Any = getattr(gcs_pb2, "ActorTableData")  # noqa: B009 (made at run time: no type checker knows it)
    # Ray's public state API needs the dashboard, which a cluster may not run; this asks the head itself.
    accessor: Any = state._connect_and_get_accessor()
    return [actor_row.FromString(row) for row in accessor.get_actor_table(None, state_name)]
