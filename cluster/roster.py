"""Actors of one kind under supervision: started, watched, replaced, added and let go while the run goes on.

    start ──> serving ──> leaving ──> ended        scaled down: no new work, ended when it holds none or time is up
      ^          │
      └── lost <─┘                                 died, stuck or broken: killed, replaced elsewhere by a new one

Whoever holds work on a member waits for the work *or* for ``Member.given_up``; in the second case the work is issued
again, under the same identity, on another member. A replacement that does not come up is tried again, later each time;
when none has served for as long as a start may take and several in a row did not come up, that error ends the run: what
they need (an engine, a node) may itself be on its way back.

    loop     consumes                      waits for                        is unblocked by
    watch    members that are missing      the next round                   a member's end, a new target, the interval
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError

from cluster.actor_config import SupervisionConfig
from cluster.errors import ActorError, LostActorError, first_line
from cluster.session import end_actor

Report = Callable[[str, str, str], None]
"""(who, what, why): something that a person who watches the run should know."""


def unheard(who: str, what: str, why: str) -> None:
    """A report that nobody asked for."""


def _future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Member:
    """One actor.

    Attributes:
        who: its name, unique in the run.
        handle: the Ray actor; its methods are made at run time.
        where: its node and process, once it is known.
        node_id: Ray's id of its node, likewise.
        held: pieces of work that it was given and has not answered.
        faults: faults in a row, for those who count them.
        died: it was lost by dying or by not answering, so that what it held may have killed it.
        given_up: resolved with the reason when its work must be issued again elsewhere.
    """

    who: str
    handle: Any
    where: str = ""
    node_id: str = ""
    held: int = 0
    faults: int = 0
    died: bool = False
    given_up: asyncio.Future[str] = field(default_factory=_future)

    def __str__(self) -> str:
        return f"{self.who} ({self.where})" if self.where else self.who

    def give_up(self, why: str) -> None:
        """Whoever holds work here issues it again. The member can be given new work afterwards."""
        given_up, self.given_up = self.given_up, _future()
        given_up.set_result(why)


class Trade(Protocol):
    """What is particular to one kind of actor."""

    name: str

    def make(self) -> Any:
        """A new Ray actor; returns its handle at once."""
        ...

    async def open(self, member: Member) -> None:
        """Makes it ready to serve, in all that the others have. Raises ActorError."""
        ...

    async def catch_up(self, member: Member) -> None:
        """Awaited last, directly before the member serves: what was missed since ``open`` began. Raises ActorError."""
        ...

    async def check(self, member: Member) -> None:
        """Raises if it cannot do its work any more. May hang."""
        ...

    async def close(self, member: Member) -> None:
        """Ends what it holds, in order; afterwards it is killed in any case."""
        ...

    def gone(self, member: Member) -> None:
        """It has been killed, in order or not, or never came up: nothing is kept for it any more."""
        ...


class Roster:
    """The members of one kind.

    Args:
        trade: what is particular to the kind.
        config: time-outs and intervals.
        start_timeout_s: for a new member to be ready.
        capacity: a member that holds so many pieces of work is given no more.
        report: told of every loss, replacement and departure.
    """

    def __init__(
        self,
        trade: Trade,
        config: SupervisionConfig,
        *,
        start_timeout_s: float,
        capacity: int,
        report: Report,
    ) -> None:
        self._trade = trade
        self._config = config
        self._start_timeout_s = start_timeout_s
        self._capacity = capacity
        self._report = report
        self._numbers = itertools.count()
        self._target = 0
        self._failed_starts = 0
        self._served_until = float("-inf")
        self.serving: list[Member] = []
        self._benched: list[Member] = []  # alive and not served: late with weights
        self._leaving: list[Member] = []
        self._starts: list[asyncio.Task[None]] = []  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()  # starts, ends and checks in progress
        self._checks: asyncio.Task[None] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._changed = asyncio.Event()

    @property
    def target(self) -> int:
        """How many there should be."""
        return self._target

    @property
    def is_missing(self) -> bool:
        """Whether none serves where some should."""
        return self._target > 0 and not self.serving

    async def fill(self, count: int) -> None:
        """Starts the first members. Raises the first one's error if any does not come up."""
        self._target = count
        try:
            async with asyncio.TaskGroup() as starts:
                self._starts += [starts.create_task(self._start()) for _ in range(count)]
        except BaseException as error:
            self._target = 0
            raise (error.exceptions[0] if isinstance(error, ExceptionGroup) else error) from error

    def scale(self, count: int) -> None:
        """From now on there shall be ``count``; ``watch`` makes it so."""
        self._target = count
        self._changed.set()

    async def watch(self) -> None:
        """See the drawing above. Ends only by an error or by being cancelled."""
        while True:
            self._round()
            try:
                async with asyncio.timeout(self._config.health_every_s):
                    await self._changed.wait()
            except TimeoutError:
                if self._checks is None or self._checks.done():  # one that hangs must not hold up the next round
                    self._checks = self._spawn(self._check_all())
            self._changed.clear()

    async def take(self, avoid: Member | None = None, pieces: int = 1) -> Member:
        """The member that holds least, once one has room; another than ``avoid`` where there is one.

        It is given all ``pieces`` of the work, be there room for one of them only. They are given back with
        ``put_back``, together or one by one. Who waits is served in the order of coming.
        """
        is_first = True
        while (member := self._free(avoid)) is None:
            waiter = asyncio.get_running_loop().create_future()
            (self._waiters.append if is_first else self._waiters.appendleft)(waiter)
            is_first = False
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # it was our turn: the next one's now
                raise
        member.held += pieces
        if self._free(None) is not None:
            self._wake()  # room for the next one too
        return member

    def put_back(self, member: Member, pieces: int = 1) -> None:
        """So many pieces of work are off a member's hands."""
        member.held -= pieces
        self._wake()

    def lose(self, member: Member, why: str, *, died: bool = True) -> None:
        """Takes a member out for good: its work is issued again, it is killed, and the watch replaces it."""
        if member not in self.serving and member not in self._benched and member not in self._leaving:
            return
        self._remove(member)
        self._report(str(member), "lost", why)
        member.died = died
        member.give_up(why)
        self._kill(member)
        self._changed.set()

    def bench(self, member: Member, why: str) -> None:
        """Gives a member no more work, and what it holds to others, until ``rejoin`` or ``lose``."""
        self._remove(member)
        self._benched.append(member)
        self._report(str(member), "set aside", why)
        member.give_up(why)

    def rejoin(self, member: Member) -> None:
        """A member that was set aside serves again."""
        if member in self._benched:
            self._benched.remove(member)
            self._join(member)
            self._report(str(member), "serves again", "it has caught up")

    async def stop(self) -> None:
        """Ends all of them; the watch has ended before."""
        self._target = 0
        tasks, self._tasks = list(self._tasks), set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        members = [*self.serving, *self._benched, *self._leaving]
        self.serving, self._benched, self._leaving = [], [], []
        await asyncio.gather(*(self._end(member) for member in members))

    # --- one round of the watch

    def _round(self) -> None:
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            if not task.cancelled():
                task.result()  # an error that is not ours to bear ends the run
        self._starts = [task for task in self._starts if not task.done()]
        alive = len(self.serving) + len(self._benched)
        wanted = max(0, self._target - alive)  # of those that start
        for task in self._starts[wanted:]:
            task.cancel()
        for _ in range(wanted - len(self._starts)):
            self._starts.append(self._spawn(self._start_again()))
        surplus = min(alive - self._target, len(self.serving) - 1)  # the late serve not yet: never the last that does
        for member in self.serving[len(self.serving) - max(0, surplus) :]:  # an autoscaler's nodes came last
            self._let_go(member)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._changed.set())
        return task

    def _let_go(self, member: Member) -> None:
        self.serving.remove(member)
        self._leaving.append(member)
        self._report(str(member), "leaves", f"scaled to {self._target}; it holds {member.held}")
        self._spawn(self._leave(member))

    async def _leave(self, member: Member) -> None:
        """What it holds is finished, or handed back when the time is up."""
        deadline = asyncio.get_running_loop().time() + self._config.leave_timeout_s
        while member.held and asyncio.get_running_loop().time() < deadline and member in self._leaving:
            await asyncio.sleep(0.05)
        if member in self._leaving:
            self._leaving.remove(member)
            member.give_up("it leaves, and what it holds is handed back")
            await self._end(member)

    async def _start_again(self) -> None:
        """A new member, tried until it comes up. Raises if none serves and several in a row did not."""
        delay_s = self._config.restart_delay_s
        while len(self.serving) + len(self._benched) < self._target:
            try:
                await self._start()
            except ActorError as error:
                self._failed_starts += 1
                self._report(self._trade.name, "did not start", str(error))
                unserved_s = asyncio.get_running_loop().time() - self._served_until
                is_long = self._failed_starts >= self._config.max_failed_starts and unserved_s >= self._start_timeout_s
                if not self.serving and is_long:
                    raise
            else:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._config.max_restart_delay_s)

    async def _start(self) -> None:
        who = f"{self._trade.name}-{next(self._numbers)}"
        member = Member(who, self._trade.make())
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._trade.open(member)
            await self._trade.catch_up(member)
        except TimeoutError:
            self._kill(member)
            raise ActorError(
                f"{member} was not ready within {self._start_timeout_s:g} s; "
                "see whether the cluster has room for it (ray status)"
            ) from None
        except BaseException:
            self._kill(member)
            raise
        self._failed_starts = 0
        self._join(member)  # no await since it caught up: no push can have been missed
        self._report(str(member), "serves", "")

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(member) for member in [*self.serving, *self._leaving]))

    async def _check(self, member: Member) -> None:
        timeout_s = self._config.health_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._trade.check(member)
        except TimeoutError:
            self.lose(member, f"it did not answer its health check within {timeout_s:g} s")
        except RayTaskError as error:
            self.lose(member, sentence_of(error))
        except RayError as error:
            self.lose(member, f"it died ({type(error).__name__})")

    async def _end(self, member: Member) -> None:
        try:
            async with asyncio.timeout(self._config.close_timeout_s):
                await self._trade.close(member)
        except (TimeoutError, RayError) as error:
            self._report(str(member), "killed", f"it did not close in order ({type(error).__name__})")
        finally:
            self._kill(member)

    def _kill(self, member: Member) -> None:
        end_actor(member.handle)
        self._trade.gone(member)

    # --- who has room

    def _free(self, avoid: Member | None) -> Member | None:
        candidates = [member for member in self.serving if member is not avoid] or self.serving
        free = [member for member in candidates if member.held < self._capacity]
        return min(free, key=lambda member: member.held, default=None)

    def _join(self, member: Member) -> None:
        self.serving.append(member)
        self._wake()

    def _remove(self, member: Member) -> None:
        for members in (self.serving, self._benched, self._leaving):
            if member in members:
                members.remove(member)
                if members is self.serving:
                    self._served_until = asyncio.get_running_loop().time()

    def _wake(self) -> None:
        """Whoever waits longest looks again; it wakes the next one if there is room for more."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


async def unless_given_up(given_up: asyncio.Future[str], work: Awaitable[Any]) -> Any:
    """The result of ``work`` on a member. Raises LostActorError with the reason if the member is given up before.

    ``given_up``: the member's, as it was when the work began.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, given_up}, return_when=asyncio.FIRST_COMPLETED)
        if given_up.done():
            raise LostActorError(given_up.result())
        return task.result()
    finally:
        task.cancel()


def sentence_of(error: RayTaskError) -> str:
    """The first line of what an actor raised."""
    return first_line(getattr(error, "cause", None) or error)
