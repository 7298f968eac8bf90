"""From a problem to a complete group: sample, execute, score. Each completion is executed the moment it is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.executor import Executed, Execution
from actors.generator import GenerationRequest
from actors.term_settings import is_cut
from actors.terms import Attempt, Failed, RewardTerm
from cluster.executor_pool import ExecutorPool
from cluster.generator_pool import Generated, GeneratorPool
from cluster.journal import JournalEntry
from cluster.metrics import Metrics, Span
from cluster.stage_config import SamplingConfig
from learner.trajectory import FinishReason, RewardEvent, Trajectory
from problems.bytemap import ByteMap
from problems.extraction import extract_program
from problems.identity import TrajectoryId
from problems.problem import Problem
from problems.prompting import PromptStyle, TokenBytes, Tokenizer, render_prompt
from sandbox.diagnosis import first_error
from sandbox.verdict import Outcome, Program, Verdict

MAIN_SUITE = "main"
_WAVE_SAMPLES = 512


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one issue of one prompt, executed and scored.

    Attributes:
        index: order of admission; the place in the problem stream.
        replaced: groups without signal that were sampled for this place before, oldest first; all of them dropped.
    """

    index: int
    problem: Problem
    entries: tuple[JournalEntry, ...]
    replaced: tuple[Group, ...] = ()

    @property
    def sampled(self) -> tuple[Group, ...]:
        """Every group that was sampled for the place."""
        return (*self.replaced, self)

    @property
    def has_signal(self) -> bool:
        """Whether two usable completions earn differently: a group baseline is zero throughout otherwise."""
        usable = [entry.trajectory for entry in self.entries if entry.trajectory.drop_reason is None]
        return len({trajectory.reward for trajectory in usable}) > 1

    def discarded(self) -> Group:
        """The same group with every completion dropped as ``replaced``, where it was not dropped before."""
        entries = (
            replace(entry, trajectory=replace(entry.trajectory, drop_reason=entry.trajectory.drop_reason or "replaced"))
            for entry in self.entries
        )
        return replace(self, entries=tuple(entries))


@dataclass(frozen=True, slots=True)
class Ask:
    """What to sample for one group.

    Attributes:
        execute: False where only learned rewards are wanted of it.
        attempt: of all its identities: 1 where it takes the place of a group without signal.
    """

    run: str
    stage: str
    epoch: int
    index: int
    problem: Problem
    num_samples: int
    temperature: float
    execute: bool = True
    attempt: int = 0


class Rollout:
    """Turns problems into complete groups.

    Args:
        execute_cut: whether a completion that the token limit cut is executed. In training it is not (the term
            ``length_cut`` speaks for it), in evaluation it is: a program may be right without its last tokens.
    """

    def __init__(
        self,
        generators: GeneratorPool,
        executors: ExecutorPool,
        *,
        terms: Sequence[RewardTerm],
        style: PromptStyle,
        tokenizer: Tokenizer,
        token_bytes: TokenBytes,
        sampling: SamplingConfig,
        execute_cut: bool,
        metrics: Metrics,
    ) -> None:
        self._generators = generators
        self._executors = executors
        self._terms = terms
        self._style = style
        self._tokenizer = tokenizer
        self._token_bytes = token_bytes
        self._sampling = sampling
        self._execute_cut = execute_cut
        self._metrics = metrics
        self._prompts: dict[str, list[int]] = {}

    def fits(self, problem: Problem) -> bool:
        """Whether the prompt is within the limit; those that are not are filtered out and counted."""
        return len(self._prompt_ids(problem)) <= self._sampling.max_prompt_tokens

    async def group(self, ask: Ask) -> Group:
        """Samples, executes and scores one group.

        Consumes the prompt; waits for the generator (all samples on one engine), then for executor and reward terms,
        each completion by itself; is unblocked by the last of them.
        """
        return await self._scored(ask, await self._sample(ask))

    async def groups(self, asks: Sequence[Ask], on_done: Callable[[], None]) -> list[Group]:
        """All groups of ``asks``, in order; ``on_done`` is called after each.

        Goes in waves: the next is sampled when all of the last are sampled, and all of the one before it scored. An
        engine's step costs nearly the same for one request as for a hundred; fed one by one as executors become free,
        the engines would spend the machine on steps that are almost empty.
        """
        per_wave = max(1, _WAVE_SAMPLES // max(ask.num_samples for ask in asks)) if asks else 1
        scoring: list[list[asyncio.Task[Group]]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                for start in range(0, len(asks), per_wave):
                    await asyncio.gather(*(scoring[-2] if len(scoring) > 1 else []))
                    wave = asks[start : start + per_wave]
                    sampled = await self._sample_wave(wave)
                    scoring.append([tasks.create_task(self._scored(*pair)) for pair in zip(wave, sampled, strict=True)])
                    for task in scoring[-1]:
                        task.add_done_callback(lambda _: on_done())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for wave in scoring for task in wave]

    async def _sample_wave(self, wave: Sequence[Ask]) -> list[list[asyncio.Task[JournalEntry]]]:
        """Samples the groups of a wave. If one fails, the scoring that the others have begun is given up too."""
        sampling = [asyncio.create_task(self._sample(ask)) for ask in wave]
        try:
            return list(await asyncio.gather(*sampling))
        except BaseException:
            for task in sampling:
                task.cancel()
            ended = await asyncio.gather(*sampling, return_exceptions=True)
            await _give_up([task for tasks in ended if not isinstance(tasks, BaseException) for task in tasks])
            raise

    async def _sample(self, ask: Ask) -> list[asyncio.Task[JournalEntry]]:
        """Samples one group; each completion's execution begins the moment it is finished. Returns those tasks."""
        scoring: list[asyncio.Task[JournalEntry]] = []
        try:
            async for generated in self._generators.stream(self._requests(ask)):
                self._metrics.span(Span(generated.who, "generate", generated.start, generated.end))
                scoring.append(asyncio.create_task(self._score(ask, generated)))
        except BaseException:
            await _give_up(scoring)
            raise
        return scoring

    async def _scored(self, ask: Ask, scoring: list[asyncio.Task[JournalEntry]]) -> Group:
        try:
            entries = await asyncio.gather(*scoring)
        except BaseException:
            await _give_up(scoring)
            raise
        ordered = sorted(entries, key=lambda entry: entry.trajectory.id.sample_index)
        return Group(ask.index, ask.problem, tuple(ordered))

    def _prompt_ids(self, problem: Problem) -> list[int]:
        if problem.id not in self._prompts:
            self._prompts[problem.id] = render_prompt(problem.prompt, self._style, self._tokenizer)
        return self._prompts[problem.id]

    def _requests(self, ask: Ask) -> list[GenerationRequest]:
        prompt_ids = np.asarray(self._prompt_ids(ask.problem), np.int32)
        return [
            GenerationRequest(
                TrajectoryId(ask.run, ask.stage, ask.epoch, ask.problem.id, index, ask.attempt),
                prompt_ids,
                self._sampling.max_new_tokens,
                ask.temperature,
                self._style.eos_token_ids,
                (*self._style.stop, *ask.problem.stop_strings),
            )
            for index in range(ask.num_samples)
        ]

    async def _score(self, ask: Ask, generated: Generated) -> JournalEntry:
        turn = generated.result.turn
        trajectory = Trajectory(generated.result.id, ask.index, (turn,))
        if turn.finish_reason is FinishReason.ABORTED:
            return JournalEntry(replace(trajectory, drop_reason="aborted"))
        if self._terms and not len(turn.completion_ids):  # a stop string came first: there is no token to train
            return JournalEntry(replace(trajectory, drop_reason="empty"))
        pieces = self._token_bytes.pieces(turn.completion_ids.tolist())
        extraction = extract_program(ask.problem, b"".join(pieces))
        attempt = Attempt(ask.problem, trajectory, extraction, ByteMap.build(pieces, extraction), None)
        if ask.execute and (self._execute_cut or not is_cut(attempt)):
            executed = await self._execute(ask.problem, extraction.program)
            attempt = replace(attempt, verdict=executed.verdict)
            if executed.set_aside:
                dropped = replace(trajectory, drop_reason="set_aside")
                return JournalEntry(dropped, extraction.program, executed.verdict.outcome)
        trajectory = await self._rewarded(attempt)
        verdict = attempt.verdict
        if verdict is None:
            return JournalEntry(trajectory, extraction.program, "cut" if ask.execute else "")
        error = first_error(verdict)
        return JournalEntry(trajectory, extraction.program, verdict.outcome, verdict.cpu_s, verdict.signs, error)

    async def _execute(self, problem: Problem, source: bytes) -> Executed:
        work = Execution(
            Program(problem.language, source),
            problem.suites[MAIN_SUITE],
            problem.limits,
            stop_at_first_failure=not self._terms,
            problem_id=problem.id,
        )
        executed = await self._executors.run(work)
        if executed.end > executed.start:
            self._metrics.span(Span("executor", "execute", executed.start, executed.end))
        return executed

    async def _rewarded(self, attempt: Attempt) -> Trajectory:
        """The trajectory with its events; with a reason to drop it where a term could not be computed."""
        events: list[RewardEvent] = []
        for term in self._terms:
            (scored,) = await term.score([attempt])
            if isinstance(scored, Failed):
                return replace(attempt.trajectory, drop_reason=f"infrastructure:{term.name}")
            events.extend(scored)
        return replace(attempt.trajectory, events=tuple(events), passed=_passed(attempt.verdict))


async def _give_up(tasks: Sequence[asyncio.Task[JournalEntry]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _passed(verdict: Verdict | None) -> bool | None:
    """None where nothing is known: nothing was executed, or a fault of ours was in the way."""
    if verdict is None or verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
        return None
    return verdict.passed
