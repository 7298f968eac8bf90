"""The loop of a ppo stage.

    problem stream --admit--> [ groups in flight: sample -> execute -> score ] --complete--> train --> push weights
          ^                                                                                              |
          +------------------------- slots are released when the push is done ---------------------------+

    loop      consumes                     waits for                                    is unblocked by
    admit     places of the stream         s - version <= max_staleness for step s      a finished push
    train     the groups of step s         all groups of step s, in admission order     the last of them
              (P places of the stream)

Groups are trained in the order of their admission, P to a step: the trainer waits for the slowest group of the step
rather than taking a later one first, since that would prefer the short over the long. With max_staleness 0 the groups
of a step are sampled by exactly the weights that they train.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from cluster.errors import ActorError
from cluster.rollout import Group
from cluster.stream import Draw, Stream
from learner.trajectory import Trajectory
from problems.identity import WeightsVersion, derive_seed

_STALL_LOOK_S = 1.0


@dataclass(slots=True)
class Waits:
    """Seconds of one step: what the trainer waited for, and what it did."""

    for_groups_s: float = 0.0
    training_s: float = 0.0
    pushing_s: float = 0.0
    wall_s: float = 0.0

    def shares(self) -> dict[str, float]:
        """Share of the step that the trainer was busy, starved of groups, and blocked by the push."""
        wall = max(self.wall_s, 1e-9)
        busy, starved = self.training_s / wall, self.for_groups_s / wall
        return {"busy": busy, "starved": starved, "blocked": max(0.0, 1.0 - busy - starved)}


@dataclass(slots=True)
class StepInput:
    """What one learner step is offered: the groups of its P places, complete."""

    step: int
    groups: list[Group]
    waits: Waits = field(default_factory=Waits)

    @property
    def sampled(self) -> list[Group]:
        """Also the groups without signal that were replaced."""
        return [group for place in self.groups for group in place.sampled]


Produce = Callable[[Draw, int], Awaitable[Group]]
Train = Callable[[StepInput], Awaitable[None]]
Push = Callable[[WeightsVersion], Awaitable[None]]
Done = Callable[[StepInput, WeightsVersion], Awaitable[None]]


class Controller:
    """Admits, waits, trains, pushes.

    Args:
        stream: where problems come from.
        produce: samples, executes and scores one group.
        train: one learner step.
        push: brings the version to all generators.
        done: what is to happen after the push (metrics, checkpoints).
        prompts_per_step: P.
        num_steps: learner steps of the stage.
        max_staleness: bound on versions between sampling and training.
        group_timeout_s: groups under way of which nothing comes for so long are an error that names a problem.
        answered: counts the pieces of work (samples, verdicts) that were done for groups.
        is_missing: whether somebody is being replaced without whom nothing can come. Supervision says how long that may
            take.
    """

    def __init__(
        self,
        *,
        stream: Stream,
        produce: Produce,
        train: Train,
        push: Push,
        done: Done,
        prompts_per_step: int,
        num_steps: int,
        max_staleness: int,
        group_timeout_s: float,
        answered: Callable[[], int] = lambda: 0,
        is_missing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stream = stream
        self._produce = produce
        self._train_step = train
        self._push = push
        self._done = done
        self._prompts_per_step = prompts_per_step
        self._num_steps = num_steps
        self._max_staleness = max_staleness
        self._group_timeout_s = group_timeout_s
        self._answered = answered
        self._is_missing = is_missing
        self._num_complete = 0
        self._groups: dict[int, asyncio.Task[Group]] = {}
        self._pushed = asyncio.Condition()

    async def run(self, start: WeightsVersion) -> WeightsVersion:
        """Runs the steps after ``start`` to the end and returns the last version."""
        self._version = start
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._admit(start.step))
                trained = loops.create_task(self._train(start.step))
                stalled = loops.create_task(self._watch())
                trained.add_done_callback(lambda _: stalled.cancel())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            await self._give_up()
        return self._version

    async def _admit(self, first_step: int) -> None:
        """Consumes places of the stream; waits for the staleness bound; is unblocked by a push."""
        for step in range(first_step, self._num_steps):
            async with self._pushed:
                await self._pushed.wait_for(lambda: step - self._version.step <= self._max_staleness)  # noqa: B023
            for position in range(step * self._prompts_per_step, (step + 1) * self._prompts_per_step):
                self._groups[position] = asyncio.create_task(self._group(position))
            async with self._pushed:
                self._pushed.notify_all()

    async def _group(self, position: int) -> Group:
        group = await self._produce(self._stream.at(position), position)
        self._num_complete += 1
        return group

    async def _watch(self) -> None:
        """Raises ActorError if groups are under way and nothing comes of them: who is dead or hangs is replaced by its
        supervisor, so this is what nobody else has seen. A machine that is merely slow still answers now and then."""
        seen, since = -1, time.monotonic()
        while True:
            await asyncio.sleep(min(self._group_timeout_s / 10, _STALL_LOOK_S))
            waiting = [position for position, task in sorted(self._groups.items()) if not task.done()]
            done = self._num_complete + self._answered()
            if done != seen or not waiting or self._is_missing():
                seen, since = done, time.monotonic()
            elif time.monotonic() - since > self._group_timeout_s:
                problem = self._stream.at(waiting[0]).problem.id
                raise ActorError(
                    f"nothing has come of {len(waiting)} groups for {self._group_timeout_s:g} s (the stage's "
                    f"group_timeout_s), the first of them that of problem {problem!r}"
                )

    async def _train(self, first_step: int) -> None:
        """Consumes complete groups in admission order; waits for all of a step; is unblocked by the last of them."""
        for step in range(first_step, self._num_steps):
            begun = time.monotonic()
            step_input = StepInput(step, await self._collect(step))
            waits = step_input.waits
            waits.for_groups_s = time.monotonic() - begun
            await self._train_step(step_input)
            trained = time.monotonic()
            waits.training_s = trained - begun - waits.for_groups_s
            version = self._version.next()
            await self._push(version)
            async with self._pushed:
                self._version = version
                self._pushed.notify_all()
            waits.pushing_s = time.monotonic() - trained
            waits.wall_s = time.monotonic() - begun
            await self._done(step_input, version)

    async def _collect(self, step: int) -> list[Group]:
        positions = range(step * self._prompts_per_step, (step + 1) * self._prompts_per_step)
        async with self._pushed:
            await self._pushed.wait_for(lambda: all(position in self._groups for position in positions))
        groups = list(await asyncio.gather(*(self._groups[position] for position in positions)))
        for position in positions:  # only now: what is still held is given up if a group fails
            del self._groups[position]
        return groups

    async def _give_up(self) -> None:
        tasks, self._groups = list(self._groups.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def shuffled_rewards(groups: list[list[Trajectory]], seed: int, step: int | str) -> list[list[Trajectory]]:
    """The control: the rewards of a step's usable trajectories change places among them at random."""
    usable = [trajectory for group in groups for trajectory in group if trajectory.drop_reason is None]
    events = [trajectory.events for trajectory in usable]
    random.Random(derive_seed("shuffled-rewards", seed, step)).shuffle(events)
    moved = {trajectory.id: replace(trajectory, events=own) for trajectory, own in zip(usable, events, strict=True)}
    return [[moved.get(trajectory.id, trajectory) for trajectory in group] for group in groups]
