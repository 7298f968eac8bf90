"""RLCF in small, without engine or cluster: a policy of a few statements, javac's word on what it writes, PPO."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.checking import CheckProgram
from actors.compiler import CompilerTerm, CompilerTermConfig
from actors.terms import Attempt
from learner.config import GAE, CriticConfig, PPOConfig
from learner.model_config import NewModelConfig, OptimizerConfig
from learner.models import new_causal_lm
from learner.ppo import PPOLearner
from learner.trajectory import FinishReason, Trajectory, Turn, VersionSpan
from problems.bytemap import ByteMap
from problems.extraction import extract_program
from problems.identity import TrajectoryId, WeightsVersion
from sandbox.verdict import Program, Verdict
from tests.actors.compiled_answers import TAIL, Compilers, problem, run
from tests.sandbox.local_java import HAS_JDK, LocalCompiler

pytestmark = pytest.mark.skipif(not HAS_JDK, reason="no JDK on this machine")

# What the policy writes two of, and the harness's end. A then B, A then F, and D then F compile; 61 other pairs do not.
STATEMENTS = (
    "int n = a + 1;",
    "return n * 2;",
    "return m;",
    "a += 3;",
    'n = "x";',
    "return a * 3;",
    "int a = 0;",
    "throw new Exception();",
)
PIECES = [f"        {statement}\n".encode() for statement in STATEMENTS] + [TAIL.encode()]
END = len(STATEMENTS)
STEPS, GROUPS, SIZE = 14, 8, 8


@pytest.fixture(scope="module")
def check() -> Iterator[CheckProgram]:
    """The machine's compiler, which is asked once about each of the 64 programs."""
    compiler = LocalCompiler()
    compilers, known = Compilers(compiler), dict[Program, Verdict]()

    async def remembered(program: Program) -> Verdict:
        if program not in known:
            known[program] = await compilers.check(program)
        return known[program]

    yield remembered
    compiler.close()


def sampled(model: torch.nn.Module, count: int, rng: torch.Generator) -> list[tuple[list[int], list[float]]]:
    """Two statements each, with their log-probabilities."""
    ids, told = torch.full((count, 1), END), torch.zeros(count, 0)
    with torch.no_grad():
        for length in (1, 2):
            places = torch.arange(length).repeat(count)[None]
            out = model(input_ids=ids.reshape(1, -1), position_ids=places, packed_lengths=(length,) * count)
            logprobs = out.logits[0, length - 1 :: length].log_softmax(-1)
            drawn = torch.multinomial(logprobs.exp(), 1, generator=rng)
            ids, told = torch.cat([ids, drawn], 1), torch.cat([told, logprobs.gather(1, drawn)], 1)
    return list(zip(ids[:, 1:].tolist(), told.tolist(), strict=True))


def attempt(group: int, sample: int, chosen: list[int], logprobs: list[float]) -> Attempt:
    """The harness wrote the end: its token is not trained."""
    of, ids = problem(), [*chosen, END]
    turn = Turn(
        np.array([END], np.int32),
        np.array(ids, np.int32),
        np.array([True, True, False]),
        np.array([*logprobs, 0.0], np.float32),
        (VersionSpan(WeightsVersion(0, 0), 0, 3),),
        FinishReason.STOP,
    )
    pieces = [PIECES[token] for token in ids]
    extraction = extract_program(of, b"".join(pieces))
    trajectory = Trajectory(TrajectoryId("r", "s", 0, f"p{group}", sample), 0, (turn,))
    return Attempt(of, trajectory, extraction, ByteMap.build(pieces, extraction), None)


@pytest.mark.parametrize("localise", [True, False])
def test_the_compile_rate_rises(check: CheckProgram, localise: bool) -> None:
    shape = NewModelConfig(hidden_size=32, num_layers=1, head_dim=16, intermediate_size=64, max_position_embeddings=16)
    model = new_causal_lm(shape, vocab_size=END + 1, eos_token_id=END, pad_token_id=END, seed=1)
    settings = PPOConfig(
        num_steps=STEPS,
        advantage=GAE(critic=CriticConfig(warmup_rollouts=0, warmup_steps=0)),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        minibatch_trajectories=32,
        row_tokens=256,
        max_trajectory_tokens=8,
    )
    learner = PPOLearner(model, settings)
    config, rng = CompilerTermConfig(localise=localise), torch.Generator().manual_seed(0)
    term = CompilerTerm(config, config.checker(check))
    rates: list[float] = []
    for _ in range(STEPS):
        drawn = sampled(learner.policy.model, GROUPS * SIZE, rng)
        attempts = [attempt(index // SIZE, index % SIZE, *one) for index, one in enumerate(drawn)]
        scored = run(term.score(attempts))
        trajectories: list[Trajectory] = [
            replace(tried.trajectory, events=events) for tried, events in zip(attempts, scored, strict=True)
        ]
        rates.append(float(np.mean([one.reward == 0 for one in trajectories])))
        assert {one.reward for one in trajectories} <= {0.0, -1.0}
        learner.step([trajectories[start : start + SIZE] for start in range(0, len(trajectories), SIZE)])
    assert np.mean(rates[:2]) < 0.25
    assert np.mean(rates[-2:]) > 0.8
