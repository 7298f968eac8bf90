"""From completion to reward: what is executed, what is paid, and what a fault of ours does to a trajectory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from actors.executor import Executed, Execution
from actors.generator import GenerationRequest, GenerationResult
from actors.rewards import AllPassedConfig, CompileErrorConfig, LengthCutConfig, ShareOfTestsConfig, build_terms
from cluster.errors import ActorError
from cluster.generator_pool import Generated
from cluster.rollout import Ask, Group, Rollout
from cluster.stage_config import SamplingConfig
from learner.trajectory import FinishReason, Turn, VersionSpan
from problems.identity import WeightsVersion
from problems.problem import CompletionStyle, FunctionSuite, Problem
from problems.prompting import PromptStyle, TokenBytes
from sandbox.verdict import CaseResult, Outcome, Verdict

EOS = 256
PROMPT = "def f(x):\n"
PROBLEM = Problem(
    "p", "python", PROMPT, CompletionStyle.CONTINUE,
    {"main": FunctionSuite(("f",), "", ("assert f(1) == 1", "assert f(2) == 2"))},
)  # fmt: skip


class Bytes:
    """A tokenizer of one token a byte."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:  # noqa: ARG002
        return list(text.encode())

    def apply_chat_template(self, conversation, **kwargs):
        raise NotImplementedError


def token_bytes() -> TokenBytes:
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"</s>": EOS}
    return TokenBytes(vocabulary, [EOS])


class Generators:
    """Gives back the completions that a test wants, the last first."""

    def __init__(self, completions: Sequence[tuple[str, FinishReason]]) -> None:
        self.completions = completions
        self.requests: list[GenerationRequest] = []

    async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        self.requests = list(requests)
        for request, (text, reason) in reversed(list(zip(requests, self.completions, strict=True))):
            ids = [*text.encode(), *([EOS] if reason is FinishReason.STOP else [])]
            turn = Turn(
                request.prompt_ids,
                np.array(ids, np.int32),
                np.ones(len(ids), np.bool_),
                np.full(len(ids), -0.5, np.float32),
                (VersionSpan(WeightsVersion(0, 0), 0, len(ids)),),
                reason,
            )
            yield Generated(GenerationResult(request.id, turn), "generator-0", 1.0, 2.0)


class Executors:
    """Answers by the program's text; remembers what it was given."""

    def __init__(self, verdicts: dict[str, Verdict]) -> None:
        self.verdicts = verdicts
        self.seen: list[Execution] = []

    async def run(self, work: Execution) -> Executed:
        self.seen.append(work)
        return Executed(self.verdicts[work.program.source.decode()], 2.0, 3.0)


class Spans:
    def __init__(self) -> None:
        self.spans = []

    def span(self, span) -> None:
        self.spans.append(span)


def verdict(*outcomes: Outcome) -> Verdict:
    failing = [outcome for outcome in outcomes if outcome is not Outcome.PASSED]
    cases = tuple(CaseResult(outcome) for outcome in outcomes)
    return Verdict(failing[0] if failing else Outcome.PASSED, num_cases=2, cases=cases)


def make_rollout(generators: Generators, executors: Executors, *, terms=None, execute_cut=False) -> Rollout:
    configs = [ShareOfTestsConfig(), AllPassedConfig(), CompileErrorConfig(), LengthCutConfig()]
    return Rollout(
        generators,
        executors,
        terms=build_terms(configs) if terms is None else terms,
        style=PromptStyle("plain", (EOS,)),
        tokenizer=Bytes(),
        token_bytes=token_bytes(),
        sampling=SamplingConfig(max_new_tokens=32),
        execute_cut=execute_cut,
        metrics=Spans(),
    )


async def roll(completions, verdicts, **settings) -> tuple[Group, Generators, Executors]:
    generators, executors = Generators(completions), Executors({PROMPT + key: v for key, v in verdicts.items()})
    rollout = make_rollout(generators, executors, **settings)
    group = await rollout.group(Ask("run", "stage", 3, 7, PROBLEM, len(completions), 1.0))
    return group, generators, executors


async def test_rewards_are_those_of_the_verdicts_and_stand_in_the_order_of_the_samples() -> None:
    stop = FinishReason.STOP
    group, generators, _ = await roll(
        [("right", stop), ("half", stop), ("(", stop)],
        {
            "right": verdict(Outcome.PASSED, Outcome.PASSED),
            "half": verdict(Outcome.PASSED, Outcome.WRONG_ANSWER),
            "(": Verdict(Outcome.COMPILE_ERROR, num_cases=2),
        },
    )
    rewards = [entry.trajectory.reward for entry in group.entries]
    assert rewards == [0.5 + 0.5, 0.25, -0.2]
    assert [entry.trajectory.passed for entry in group.entries] == [True, False, False]
    assert [entry.trajectory.id.sample_index for entry in group.entries] == [0, 1, 2]
    assert {entry.trajectory.group for entry in group.entries} == {7}
    assert len({request.id.sampling_seed() for request in generators.requests}) == 3
    assert bytes(generators.requests[0].prompt_ids.tolist()) == PROMPT.encode()


async def test_a_cut_completion_earns_its_own_term_and_is_not_executed_in_training() -> None:
    group, _, executors = await roll([("ri", FinishReason.LENGTH)], {})
    assert [(event.term, event.value) for event in group.entries[0].trajectory.events] == [("length_cut", -0.2)]
    assert group.entries[0].outcome == "cut"
    assert executors.seen == []


async def test_a_cut_completion_is_executed_in_evaluation() -> None:
    passed = {"ri": verdict(Outcome.PASSED, Outcome.PASSED)}
    group, _, _ = await roll([("ri", FinishReason.LENGTH)], passed, terms=[], execute_cut=True)
    assert group.entries[0].trajectory.passed is True


async def test_a_fault_of_the_sandbox_is_no_reward_but_a_reason_to_drop() -> None:
    broken = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=2, detail="the engine died")
    group, _, _ = await roll([("x", FinishReason.STOP)], {"x": broken})
    trajectory = group.entries[0].trajectory
    assert trajectory.events == ()
    assert trajectory.drop_reason == "infrastructure:test_share"
    evaluated, _, _ = await roll([("x", FinishReason.STOP)], {"x": broken}, terms=[])
    assert evaluated.entries[0].trajectory.passed is None


async def test_an_aborted_completion_is_neither_executed_nor_trained() -> None:
    group, _, executors = await roll([("ri", FinishReason.ABORTED)], {})
    assert group.entries[0].trajectory.drop_reason == "aborted"
    assert executors.seen == []


async def test_an_empty_completion_has_nothing_to_train_and_is_still_evaluated() -> None:
    empty = ("", FinishReason.LENGTH)  # without an end token, as after a stop string
    group, _, _ = await roll([empty], {})
    assert group.entries[0].trajectory.drop_reason == "empty"
    failing = {"": verdict(Outcome.WRONG_ANSWER)}
    evaluated, _, _ = await roll([empty], failing, terms=[], execute_cut=True)
    assert evaluated.entries[0].trajectory.passed is False


async def test_all_cases_run_where_a_share_is_paid_and_the_first_failure_ends_an_evaluation() -> None:
    passed = {"right": verdict(Outcome.PASSED, Outcome.PASSED)}
    _, _, training = await roll([("right", FinishReason.STOP)], passed)
    _, _, evaluation = await roll([("right", FinishReason.STOP)], passed, terms=[])
    assert training.seen[0].stop_at_first_failure is False
    assert evaluation.seen[0].stop_at_first_failure is True


async def test_many_groups_go_in_waves_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.rollout._WAVE_SAMPLES", 4)
    generators = Generators([("right", FinishReason.STOP), ("half", FinishReason.STOP)])
    executors = Executors(
        {
            PROMPT + "right": verdict(Outcome.PASSED, Outcome.PASSED),
            PROMPT + "half": verdict(Outcome.PASSED, Outcome.WRONG_ANSWER),
        }
    )
    rollout = make_rollout(generators, executors)
    done: list[None] = []
    asks = [Ask("run", "stage", 0, index, PROBLEM, 2, 1.0) for index in range(7)]
    groups = await rollout.groups(asks, lambda: done.append(None))
    assert [group.index for group in groups] == list(range(7))
    assert len(done) == 7
    assert len(executors.seen) == 14
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_failing_group_ends_all_and_leaves_no_task() -> None:
    generators = Generators([("right", FinishReason.STOP)])
    rollout = make_rollout(generators, Executors({}))
    asks = [Ask("run", "stage", 0, index, PROBLEM, 1, 1.0) for index in range(3)]
    with pytest.raises(KeyError):
        await rollout.groups(asks, lambda: None)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_scoring_that_has_begun_is_given_up_when_another_group_cannot_be_sampled() -> None:
    class OneFails(Generators):
        async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
            if requests[0].id.problem_id == "q":
                await asyncio.sleep(0.05)  # the other group's scoring has begun by then
                raise ActorError("generator-0 could not sample")
            async for generated in super().stream(requests):
                yield generated

    class Never(Executors):
        async def run(self, work: Execution) -> Executed:
            self.seen.append(work)
            await asyncio.Event().wait()
            raise AssertionError

    executors = Never({})
    rollout = make_rollout(OneFails([("right", FinishReason.STOP)]), executors)
    asks = [Ask("run", "stage", 0, 0, PROBLEM, 1, 1.0), Ask("run", "stage", 0, 1, replace(PROBLEM, id="q"), 1, 1.0)]
    with pytest.raises(ActorError, match="could not sample"):
        await rollout.groups(asks, lambda: None)
    assert len(executors.seen) == 1
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_program_of_a_problem_that_was_set_aside_is_dropped_by_that_name() -> None:
    class SetAside(Executors):
        async def run(self, work: Execution) -> Executed:
            assert work.problem_id == PROBLEM.id
            return Executed(Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=2), 2.0, 2.0, set_aside=True)

    rollout = make_rollout(Generators([("x", FinishReason.STOP)]), SetAside({}))
    group = await rollout.group(Ask("run", "stage", 0, 0, PROBLEM, 1, 1.0))
    assert group.entries[0].trajectory.drop_reason == "set_aside"
    assert group.entries[0].trajectory.events == ()


async def test_a_group_says_something_only_if_two_usable_completions_earn_differently() -> None:
    right, wrong = verdict(Outcome.PASSED, Outcome.PASSED), verdict(Outcome.PASSED, Outcome.WRONG_ANSWER)
    broken = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=2)
    verdicts = {" a": right, " b": right, " c": wrong, " d": broken}
    stop = FinishReason.STOP
    same, _, _ = await roll([(" a", stop), (" b", stop), (" d", stop)], verdicts)
    different, _, _ = await roll([(" a", stop), (" c", stop), (" d", stop)], verdicts)
    assert not same.has_signal, "the third one earned nothing because of us, not of what it says"
    assert different.has_signal
    dropped = [entry.trajectory.drop_reason for entry in same.discarded().entries]
    assert dropped == ["replaced", "replaced", "infrastructure:test_share"]


async def test_a_place_without_signal_is_sampled_again_with_other_draws() -> None:
    generators = Generators([(" a", FinishReason.STOP)] * 2)
    rollout = make_rollout(generators, Executors({PROMPT + " a": verdict(Outcome.PASSED, Outcome.PASSED)}))
    for attempt in (0, 1):
        await rollout.group(Ask("run", "stage", 3, 7, PROBLEM, 2, 1.0, attempt=attempt))
        assert [request.id.attempt for request in generators.requests] == [attempt, attempt]
    draws = [replace(request.id, attempt=attempt) for request in generators.requests for attempt in (0, 1)]
    assert len({draw.sampling_seed() for draw in draws}) == 4
