"""The executors of a run as a pool of Ray actors: hides which one does the work, and what happens if one dies."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from ray.exceptions import RayError, RayTaskError

from actors.executor import Executed, Execution, ExecutorWorker
from cluster.actor_config import ExecutorsConfig, SupervisionConfig
from cluster.calls import FULL_STORE, MAX_CONCURRENCY, STORE_ERRORS, within
from cluster.errors import ActorError, LostActorError
from cluster.placement import SANDBOX_RESOURCE
from cluster.presence import Present, refuse_other_versions
from cluster.roster import Member, Report, Roster, sentence_of, unheard, unless_given_up
from cluster.session import start_actor
from sandbox.diagnosis import ErrorClass, error_class
from sandbox.verdict import Outcome, Verdict

_CACHE_ENTRIES = 100_000
_WORK_PER_SLOT = 2  # one runs, one waits: a slot is never idle, and a dead executor held little
_REPEATABLE = {Outcome.PASSED, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR, Outcome.COMPILE_ERROR}


class ExecutorActor(ExecutorWorker, Present):
    """The executor as a Ray actor."""


@dataclass(slots=True)
class ExecutorStats:
    """Totals of the pool since its start."""

    executed: int = 0
    cached: int = 0
    retried: int = 0
    reissued: int = 0
    set_aside: int = 0
    busy_s: float = 0.0
    candidate_cpu_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)


class ExecutorPool:
    """The executors of a run, with a cache of what identical programs did.

    A *fault* (``infrastructure_error``) is tried once more, elsewhere; then it stands, and the sample is dropped. An
    executor with several faults in a row is taken out. Work on an executor that *died* is issued again; a problem whose
    programs were there at several such deaths is set aside. Programs that are sound are cleared of the blame when they
    come to an end.
    """

    name = "executor"

    def __init__(
        self,
        config: ExecutorsConfig,
        supervision: SupervisionConfig | None = None,
        report: Report = unheard,
        kind: type = ExecutorActor,
    ) -> None:
        self._config = config
        self._kind = kind
        self._report = report
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        # Problem -> executor that died -> its programs that were there and have not ended since.
        self._deaths: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._suspects = asyncio.Lock()
        self._backends: defaultdict[str, list[str]] = defaultdict(list)  # language -> those that have held it
        self.stats = ExecutorStats()
        self.answered = 0
        """Verdicts of programs that were run, in all."""
        self.roster = Roster(
            self,
            supervision or SupervisionConfig(),
            start_timeout_s=config.start_timeout_s,
            capacity=_WORK_PER_SLOT * config.sandbox.slots,
            report=report,
        )

    async def start(self) -> None:
        """Opens all sandboxes. Raises ActorError with the sandbox's own sentence."""
        if not self.roster.target:
            await self.roster.fill(self._config.count)

    @property
    def count(self) -> int:
        return self.roster.target

    def scale(self, count: int) -> None:
        """From now on there shall be ``count`` executors."""
        self.roster.scale(count)

    # --- Trade

    def make(self) -> Any:
        return start_actor(
            self._kind,
            self._config.sandbox,
            num_cpus=0,
            resources={SANDBOX_RESOURCE: 1},
            max_concurrency=MAX_CONCURRENCY,
        )

    async def open(self, member: Member) -> None:
        timeout_s = self._config.start_timeout_s
        presence = await within(member.handle.presence.remote(), timeout_s, member.who, "come up")
        member.where = str(presence)
        refuse_other_versions(member.who, presence)
        await within(member.handle.start.remote(), timeout_s, member.who, "open its sandbox")

    async def catch_up(self, member: Member) -> None:
        """An executor knows nothing that could be out of date."""

    async def check(self, member: Member) -> None:
        await member.handle.check_health.remote()

    async def close(self, member: Member) -> None:
        await member.handle.close.remote()

    def gone(self, member: Member) -> None:
        """Nothing is kept for an executor."""

    # --- work

    async def run(self, work: Execution, *, anew: bool = False) -> Executed:
        """One verdict; see the class for what happens to faults.

        ``anew``: the program is run even if it is known what it did.
        """
        key = _content_key(work)
        if key in self._verdicts and not anew:
            self._verdicts.move_to_end(key)
            self.stats.cached += 1
            now = time.time()
            return Executed(self._verdicts[key], now, now)
        executed = await self._run(work)
        self.answered += 1
        self._count(executed)
        if _is_repeatable(executed.verdict):
            self._verdicts[key] = executed.verdict
            if len(self._verdicts) > _CACHE_ENTRIES:
                self._verdicts.popitem(last=False)
        return executed

    async def _run(self, work: Execution) -> Executed:
        deaths, retried, avoid = list[str](), False, None
        while len(self._deaths[work.problem_id]) < self._config.set_aside_after:
            # Who was there when an executor died runs alone among its like: the next death has one suspect.
            async with self._suspects if deaths else nullcontext():
                member = await self.roster.take(avoid)
                avoid = member
                try:
                    executed: Executed = await self._run_on(member, work)
                except LostActorError:
                    self.stats.reissued += 1
                    if member.died:
                        deaths.append(member.who)
                        self._accuse(work.problem_id, member.who)
                    continue
                finally:
                    self.roster.put_back(member)
            if executed.verdict.outcome is not Outcome.INFRASTRUCTURE_ERROR or retried:
                self._clear(work.problem_id, deaths)
                return executed
            retried = True
            self.stats.retried += 1
        self.stats.set_aside += 1
        why = f"its problem was in flight when {self._config.set_aside_after} executors died"
        return replace(_not_run(work, why), set_aside=True)

    async def _run_on(self, member: Member, work: Execution) -> Executed:
        try:
            executed: Executed = await unless_given_up(member.given_up, member.handle.run.remote(work))
        except STORE_ERRORS as error:  # a large suite did not leave the driver: no executor and no program is to blame
            raise ActorError(f"{member} could not run programs: {FULL_STORE}") from error
        except RayTaskError as error:
            executed = _not_run(work, f"{member}: {sentence_of(error)}")
        except RayError as error:
            self.roster.lose(member, f"it died while it ran programs ({type(error).__name__})")
            raise LostActorError(type(error).__name__) from error
        self._tell_other_backend(member, work.program.language, executed.verdict)
        broken = executed.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
        member.faults = member.faults + 1 if broken else 0
        if member.faults >= self._config.quarantine_after:
            why = f"{member.faults} faults of its sandbox in a row: {executed.verdict.detail}"
            self.roster.lose(member, why, died=False)
        return executed

    def _tell_other_backend(self, member: Member, language: str, verdict: Verdict) -> None:
        """``auto`` finds what there is, node by node and start by start: that it differs is not passed over."""
        known = self._backends[language]
        if verdict.isolation is not None and verdict.isolation.backend not in known:
            if known:
                why = f"{language} runs in the {verdict.isolation.backend} sandbox here, and in {known[0]} before"
                self._report(
                    str(member), "other sandbox", f"{why} (executors.sandbox.backend: auto takes what it finds)"
                )
            known.append(verdict.isolation.backend)

    def _accuse(self, problem_id: str, who: str) -> None:
        deaths = self._deaths[problem_id]
        deaths[who] += 1
        if len(deaths) == self._config.set_aside_after and deaths[who] == 1:
            self._report(
                f"problem {problem_id}", "set aside", f"its programs were in flight when {', '.join(deaths)} died"
            )

    def _clear(self, problem_id: str, deaths: Sequence[str]) -> None:
        """A program that ends has killed nobody; with the last of its problem that was there the problem is cleared."""
        for who in deaths:
            self._deaths[problem_id][who] -= 1
            self._deaths[problem_id] = +self._deaths[problem_id]

    def _count(self, executed: Executed) -> None:
        stats, verdict = self.stats, executed.verdict
        stats.executed += 1
        stats.busy_s += verdict.wall_s
        stats.candidate_cpu_s += verdict.cpu_s
        stats.outcomes[verdict.outcome] = stats.outcomes.get(verdict.outcome, 0) + 1

    async def stop(self) -> None:
        """Ends all sandboxes."""
        await self.roster.stop()


def _not_run(work: Execution, detail: str) -> Executed:
    now = time.time()
    verdict = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=len(work.suite.cases), detail=detail)
    return Executed(verdict, now, now)


def _is_repeatable(verdict: Verdict) -> bool:
    """What a program does is the same each time, unless a limit of time or memory, or our own fault, cut it or its
    compiler short."""
    classes = {error_class(diagnostic) for diagnostic in verdict.diagnostics}
    return verdict.outcome in _REPEATABLE and ErrorClass.COMPILER_LIMIT not in classes


def _content_key(work: Execution) -> bytes:
    """Equal for equal program, suite, limits and mode."""
    content = repr((work.program, work.suite, work.limits, work.stop_at_first_failure))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
