"""How close the learner comes to the machine's limit, and to another trainer. CPU seconds, one thread, float32.

python -m benchmarks.learner                runs the arms that are missing
python -m benchmarks.learner step trl       runs these anew
python -m benchmarks.learner --list         says which stand

Two sides that are compared alternate within one run and the median of their ratios counts: a busy machine slows both.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from learner.aggregate import weighted_sum
from learner.config import GAE, CriticConfig, GroupBaseline, KLConfig, PPOConfig
from learner.flops import critic_arithmetic, policy_arithmetic
from learner.logprobs import token_logprobs
from learner.memory import peak_bytes, reset_peak
from learner.minibatch import PassFigures, minibatches, update
from learner.model_config import NewModelConfig, OptimizerConfig
from learner.models import new_causal_lm, num_parameters
from learner.optim import ScheduledOptimizer
from learner.packing import PackedRow, TokenSequence, as_sequence, pack
from learner.policy import Policy
from learner.ppo import PPOLearner
from learner.scalar_head import ScalarHeadModel
from learner.signals import logprobs_of
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion

ROOT = Path(__file__).resolve().parent.parent
ARMS = Path(__file__).resolve().parent / "arms" / "learner"
SHAPE = NewModelConfig(
    hidden_size=256, num_layers=4, head_dim=64, intermediate_size=704, max_position_embeddings=4096,
    tie_word_embeddings=True, initializer_range=0.02,
)  # fmt: skip
VOCABULARY, EOS = 1024, 1
ROUNDS = 5
ROW_TOKENS = 4096
TRL_SAMPLES, TRL_PROMPT, TRL_COMPLETIONS, TRL_EPOCHS = 16, 16, (64, 256), 4
TRL_STEPS = 5


def model(vocabulary: int = VOCABULARY, shape: NewModelConfig = SHAPE) -> PreTrainedModel:
    return new_causal_lm(shape, vocab_size=vocabulary, eos_token_id=EOS, pad_token_id=0, seed=0)


def cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def alternating(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[list[float], list[float]]:
    """CPU seconds of both, in turns, after one round that does not count."""
    ours(), theirs()
    pairs = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(ROUNDS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def trajectory(group: int, sample: int, prompt: np.ndarray, completion: np.ndarray, logprobs: np.ndarray) -> Trajectory:
    length = len(completion)
    turn = Turn(
        prompt_ids=prompt.astype(np.int32),
        completion_ids=completion.astype(np.int32),
        loss_mask=np.ones(length, dtype=np.bool_),
        behaviour_logprobs=np.minimum(logprobs, 0).astype(np.float32),
        spans=(VersionSpan(WeightsVersion(0, 0), 0, length),),
        finish_reason=FinishReason.STOP,
    )
    reward = RewardEvent("share", float(np.mean(completion % 2)))
    return Trajectory(TrajectoryId("bench", "ppo", 0, f"p{group}", sample), group, (turn,), (reward,))


def rollouts(policy: PreTrainedModel, groups: int, size: int, rng: np.random.Generator) -> list[list[Trajectory]]:
    """Prompts of 32 to 96 tokens, completions of 32 to 256, random tokens with the policy's own log-probabilities."""
    made: list[list[Trajectory]] = []
    for group in range(groups):
        prompt = rng.integers(2, VOCABULARY, int(rng.integers(32, 97)))
        members = []
        for sample in range(size):
            completion = rng.integers(2, VOCABULARY, int(rng.integers(32, 257)))
            bare = trajectory(group, sample, prompt, completion, np.zeros(len(completion)))
            logprobs = logprobs_of(Policy(policy), [as_sequence(bare)], ROW_TOKENS).numpy()
            members.append(trajectory(group, sample, prompt, completion, logprobs))
        made.append(members)
    return made


# --- a PPO step against the bare models


def step_arm() -> dict[str, Any]:
    """A step without a critic: updates and the whole step against the bare policy."""
    return against_bare(GroupBaseline())


def critic_arm() -> dict[str, Any]:
    """A step with a critic: updates of both and the whole step against the bare policy and the bare critic."""
    return against_bare(GAE(critic=CriticConfig(warmup_steps=0)))


def against_bare(advantage: GAE | GroupBaseline) -> dict[str, Any]:
    """Updates of a PPO step (losses, chunked log-probabilities, clipping, AdamW) and the whole step, against forward
    and backward of the models alone on the same rows: cross entropy at the same tokens, squared error of the values."""
    config = PPOConfig(
        num_steps=1000, advantage=advantage, epochs=1, minibatch_trajectories=1000, row_tokens=ROW_TOKENS,
        max_trajectory_tokens=512, optimizer=OptimizerConfig(learning_rate=1e-6),
    )  # fmt: skip
    learner = PPOLearner(model(), config)
    groups = rollouts(learner.policy.model, 8, 4, np.random.default_rng(0))
    sequences = [as_sequence(t) for group in groups for t in group]
    rows = pack(sequences, ROW_TOKENS)
    bare = model()
    critic = ScalarHeadModel.from_causal_lm(bare) if isinstance(advantage, GAE) else None

    def bare_pass() -> None:
        for row in rows:
            states = bare_states(bare.base_model, row)[row.predicting]
            F.cross_entropy(bare.get_output_embeddings()(states), row.targets).backward()
            if critic is not None:
                values = critic.score(bare_states(critic.model, row)[row.predicting])[:, 0]
                values.square().mean().backward()
        bare.zero_grad(set_to_none=True)
        if critic is not None:
            critic.zero_grad(set_to_none=True)

    updates = UpdateTime(learner)
    whole, alone = alternating(lambda: learner.step(groups), bare_pass)
    spent = updates.of_each_step()[1:]
    tokens = sum(s.num_tokens for s in sequences)
    return {
        "model_parameters": num_parameters(bare),
        "tokens": tokens,
        "rows": len(rows),
        "bare_tokens_per_cpu_s": tokens / median(alone),
        "update_tokens_per_cpu_s": tokens / median(spent),
        "step_tokens_per_cpu_s": tokens / median(whole),
        "update_over_bare": median(b / u for u, b in zip(spent, alone, strict=True)),
        "whole_step_over_bare": median(b / w for w, b in zip(whole, alone, strict=True)),
        "target": 0.9,
    }


def bare_states(backbone: torch.nn.Module, row: PackedRow) -> torch.Tensor:
    output = backbone(
        input_ids=row.input_ids[None], position_ids=row.position_ids[None], use_cache=False, packed_lengths=row.lengths
    )
    return output.last_hidden_state[0]


class UpdateTime:
    """CPU seconds that a learner spends in the updates of critic and policy."""

    def __init__(self, learner: PPOLearner) -> None:
        self._spent: dict[str, list[float]] = {}
        for name in ("_train_critic", "_train_policy"):
            setattr(learner, name, self._timed(name, getattr(learner, name)))

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin = time.process_time()
            result = work(*arguments)
            self._spent.setdefault(name, []).append(time.process_time() - begin)
            return result

        return timed

    def of_each_step(self) -> list[float]:
        return [sum(parts) for parts in zip(*self._spent.values(), strict=True)]


# --- packed against padded


def padding_arm() -> dict[str, Any]:
    """Packed rows against batches padded to the longest, lengths log-uniform in [L, 8 L]: the ideal is
    8 ln 8 / 7 = 2.38. Same model, same attention kernel (torch's, causal), same log-probabilities, same tokens."""
    longest, rng = 256, np.random.default_rng(1)
    lengths = np.exp(rng.uniform(math.log(longest / 8), math.log(longest), 32)).astype(int)
    sequences = [
        TokenSequence(str(i), rng.integers(2, VOCABULARY, n).astype(np.int64), np.arange(n) > 0)
        for i, n in enumerate(lengths)
    ]
    policy, padded_model = Policy(model()), model()
    padded_model.set_attn_implementation("sdpa")
    rows = pack(sequences, ROW_TOKENS)
    size = ROW_TOKENS // longest
    batches = []
    for start in range(0, len(sequences), size):
        ids = torch.zeros(size, longest, dtype=torch.int64)
        trained = torch.zeros(size, longest, dtype=torch.bool)
        for place, sequence in enumerate(sequences[start : start + size]):
            ids[place, : sequence.num_tokens] = torch.from_numpy(sequence.ids)
            trained[place, : sequence.num_tokens] = torch.from_numpy(sequence.trained)
        batches.append((ids, trained))

    def packed() -> None:
        for row in rows:
            policy(row).logprobs.sum().backward()
        policy.zero_grad(set_to_none=True)

    def padded() -> None:
        output = padded_model.get_output_embeddings()
        for ids, trained in batches:  # padding lies on the right: causal attention needs no mask for it
            hidden = padded_model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            states = hidden[:, :-1][trained[:, 1:]]
            token_logprobs(states, output.weight, ids[trained]).logprobs.sum().backward()
        padded_model.zero_grad(set_to_none=True)

    ours, theirs = alternating(packed, padded)
    tokens = int(lengths.sum())
    ideal = len(lengths) * longest / tokens
    speedup = median(b / a for a, b in zip(ours, theirs, strict=True))
    return {
        "sequences": len(lengths),
        "packed_tokens": tokens,
        "padded_tokens": len(batches) * size * longest,
        "ideal": ideal,
        "ideal_of_the_distribution": 8 * math.log(8) / 7,
        "speedup": speedup,
        "share_of_ideal": speedup / ideal,
        "target": 0.85,
    }


# --- peak memory and the vocabulary


def vocabulary_arm() -> dict[str, Any]:
    """Peak of two mini-batches' updates with 150,000 and 1,000 tokens in the vocabulary, each in a process of its own;
    embeddings, their gradient and their two moments are set aside, the process before the updates too."""
    peaks = {}
    for vocabulary in (1000, 150_000):
        command = [sys.executable, "-m", "benchmarks.learner", "--vocabulary", str(vocabulary)]
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        peaks[vocabulary] = json.loads(output.splitlines()[-1])
    ratio = peaks[150_000]["net_bytes"] / peaks[1000]["net_bytes"]
    return {"peaks": {str(v): figures for v, figures in peaks.items()}, "ratio": ratio, "target": 1.2}


def measure_vocabulary(vocabulary: int) -> dict[str, int]:
    """Two updates of a packed row of 4096 tokens, a quarter of them trained; the first makes AdamW's moments."""
    policy = Policy(model(vocabulary))
    optimizer = ScheduledOptimizer(policy, OptimizerConfig(learning_rate=1e-6))
    rng = np.random.default_rng(0)
    sequences = [
        TokenSequence(str(i), rng.integers(2, 1000, 256).astype(np.int64), np.arange(256) >= 192) for i in range(16)
    ]
    embedding = policy.model.get_input_embeddings().weight.nbytes
    before = resident_bytes() - embedding  # python, libraries, the rest of the model
    reset_peak(torch.device("cpu"))
    for _ in range(2):
        for batch in minibatches(sequences, size=32, aggregation="token_mean", order_seed=0):
            update(
                batch, model_name="policy", optimizer=optimizer, row_tokens=ROW_TOKENS,
                row_loss=lambda row, _, weights: (weighted_sum(-policy(row).logprobs, weights), {}),
                progress=0.0, figures=PassFigures(),
            )  # fmt: skip
    peak = peak_bytes(torch.device("cpu"))
    return {"peak_bytes": peak, "embedding_bytes": embedding, "net_bytes": peak - before - 4 * embedding}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- against TRL


def trl_arm() -> dict[str, Any]:
    """Samples per CPU second of a whole PPO step: generation, reference, critic, 4 epochs of 16 samples.

    Ours: vLLM's CPU engine and this learner, weights pushed after each step, the engine's process counted. TRL 0.24
    (the last with a PPO trainer), in an environment of its own, made on demand. Lengths are the same on both sides: all
    equal, where both must compute the same, and log-uniform 1:8. Prompts of 16 tokens are padded by nobody, so that
    they hide a part of what packing saves where completions are short. One run each, one after the other.

    What is out of reach whatever we do: the learner's arithmetic at the rate of large matrix products, with nothing
    else in the step and completions that cost nothing, against the whole of TRL's.
    """
    theirs_python = trl_environment()
    rng = np.random.default_rng(0)
    settings: dict[str, list[list[int]]] = {}
    for longest in TRL_COMPLETIONS:
        drawn = np.exp(rng.uniform(math.log(longest / 8), math.log(longest), (TRL_STEPS, TRL_SAMPLES)))
        settings[f"log-uniform 1:8 up to {longest}"] = drawn.round().astype(int).tolist()
        settings[f"all {longest}"] = [[longest] * TRL_SAMPLES] * TRL_STEPS
    measured: dict[str, Any] = {}
    for name, lengths in settings.items():
        ours = run_side([sys.executable, "-m", "benchmarks.learner", "--our-side"], lengths)
        theirs = run_side([str(theirs_python), str(ROOT / "benchmarks" / "trl_side.py")], lengths)
        rate, other = TRL_SAMPLES / median(ours["cpu_s"]), TRL_SAMPLES / median(theirs["cpu_s"])
        padded = sum(TRL_SAMPLES * (TRL_PROMPT + max(step)) for step in lengths)
        floor = median(step_arithmetic(step) for step in lengths[1:]) / matrix_rate()
        measured[name] = {
            "mean_completion_tokens": float(np.mean(lengths)),
            "padded_over_packed_tokens": padded / sum(TRL_PROMPT + length for step in lengths for length in step),
            "ours_samples_per_cpu_s": rate,
            "trl_samples_per_cpu_s": other,
            "ratio": rate / other,
            "our_arithmetic_cpu_s": floor,
            "ratio_if_arithmetic_alone": median(theirs["cpu_s"]) / floor,
            "our_parts_cpu_s": {part: median(ours[part]) for part in ("generate", "train", "push")},
            "ours_cpu_s": ours["cpu_s"],
            "trl_cpu_s": theirs["cpu_s"],
        }
    return {"samples": TRL_SAMPLES, "epochs": TRL_EPOCHS, "settings": measured, "target": 2.0}


def step_arithmetic(lengths: list[int]) -> float:
    """Floating-point operations of a step's training: reference and value pass, and the epochs of both models."""
    policy = Policy(model())
    critic = critic_arithmetic(ScalarHeadModel.from_causal_lm(policy.model))
    tokens = [np.ones(TRL_PROMPT + length, np.int64) for length in lengths]
    sequences = [TokenSequence(str(i), ids, np.arange(len(ids)) >= TRL_PROMPT) for i, ids in enumerate(tokens)]
    passes = 1 + 3 * TRL_EPOCHS  # forward, and backward at twice its cost
    return passes * (policy_arithmetic(policy).forward(sequences) + critic.forward(sequences))


def matrix_rate(size: int = 2048) -> float:
    """Floating-point operations per CPU second of a matrix product in float32."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    spent = [cpu_seconds(lambda: left @ right) for _ in range(2 * ROUNDS)]
    return 2 * size**3 / median(spent[1:])


def trl_environment() -> Path:
    """Python of the environment with TRL 0.24, outside the repository."""
    folder = Path(os.environ.get("CRUCIBLE_TRL_VENV", Path(tempfile.gettempdir()) / "crucible-trl-0.24"))
    python = folder / "bin" / "python"
    if not python.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        environment = os.environ | {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""), "UV_SYSTEM_CERTS": "1"}
        backend = [] if environment["UV_FIND_LINKS"] else ["--torch-backend", "cpu"]
        packages = ["trl==0.24.*", "transformers==4.57.*", "torch==2.13.0"]
        subprocess.run([uv, "venv", "-q", "--python", "3.11", str(folder)], check=True, env=environment)
        command = [uv, "pip", "install", "-q", "--python", str(python), *backend, *packages]
        subprocess.run(command, check=True, env=environment)
    return python


def run_side(command: list[str], lengths: list[list[int]]) -> dict[str, list[float]]:
    """CPU seconds of each step but the first, whole and by part, as the side prints them."""
    settings = {
        "hidden_size": SHAPE.hidden_size, "num_layers": SHAPE.num_layers, "head_dim": SHAPE.head_dim,
        "intermediate_size": SHAPE.intermediate_size, "vocabulary": VOCABULARY, "samples": TRL_SAMPLES,
        "prompt": TRL_PROMPT, "lengths": lengths, "epochs": TRL_EPOCHS, "steps": TRL_STEPS,
    }  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "BENCHMARK_SIDE": json.dumps(settings)}
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr[-3000:]}")
    return {part: spent[1:] for part, spent in json.loads(finished.stdout.splitlines()[-1]).items()}


async def our_side() -> dict[str, Any]:
    """Whole steps: sample, score, train, push."""
    from actors.config import GeneratorConfig
    from actors.engine import engine_environment
    from actors.generator import GenerationRequest, Generator
    from actors.weights import ShmSender

    os.environ.update(engine_environment("cpu"))
    lengths_of_steps: list[list[int]] = json.loads(os.environ["BENCHMARK_SIDE"])["lengths"]
    longest = TRL_PROMPT + max(map(max, lengths_of_steps))
    settings = PPOConfig(
        num_steps=TRL_STEPS, advantage=GAE(critic=CriticConfig(epochs=TRL_EPOCHS, warmup_steps=0)),
        kl=KLConfig(coefficient=0.05), epochs=TRL_EPOCHS, minibatch_trajectories=TRL_SAMPLES,
        max_trajectory_tokens=longest, optimizer=OptimizerConfig(learning_rate=3e-6),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        policy = model()
        policy.save_pretrained(folder)
        learner = PPOLearner(policy, settings)
        generator = Generator(GeneratorConfig(dtype="float32", max_model_len=512, max_num_seqs=TRL_SAMPLES))
        await generator.start_engine(folder, WeightsVersion(0, 0))
        sender, rng = ShmSender("benchmark", root=Path(folder)), np.random.default_rng(0)
        parts: dict[str, list[float]] = {"cpu_s": [], "generate": [], "train": [], "push": []}
        for step, lengths in enumerate(lengths_of_steps):
            begin = cpu_seconds_of_all()
            requests = [
                GenerationRequest(
                    TrajectoryId("bench", "ppo", step, f"p{i}", 0),
                    rng.integers(2, VOCABULARY, TRL_PROMPT).astype(np.int32), length,
                )
                for i, length in enumerate(lengths)
            ]  # fmt: skip
            groups: list[list[Trajectory]] = []
            async for result in generator.generate_group(requests):
                reward = RewardEvent("share", float(np.mean(result.turn.completion_ids % 2)))
                groups.append([Trajectory(result.id, len(groups), (result.turn,), (reward,))])
            assert sorted(group[0].num_completion_tokens for group in groups) == sorted(lengths)
            generated = cpu_seconds_of_all()
            learner.step(groups)
            trained = cpu_seconds_of_all()
            version = WeightsVersion(0, step + 1)
            ticket = sender.publish(version, learner.weights())
            await generator.verify(ticket)
            await generator.start(version)
            await generator.update(ticket)
            await generator.finish(version)
            sender.retire(WeightsVersion(0, step)) if step else None
            end = cpu_seconds_of_all()
            parts["cpu_s"].append(end - begin)
            parts["generate"].append(generated - begin)
            parts["train"].append(trained - generated)
            parts["push"].append(end - trained)
        await generator.shutdown()
    return parts


def cpu_seconds_of_all() -> float:
    """Of this process and all under it: vLLM's engine is one of its own."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


ALL = {"step": step_arm, "critic": critic_arm, "padding": padding_arm, "vocabulary": vocabulary_arm, "trl": trl_arm}


def main() -> None:
    torch.set_num_threads(1)
    if "--vocabulary" in sys.argv:
        print(json.dumps(measure_vocabulary(int(sys.argv[-1]))))
        return
    if "--our-side" in sys.argv:
        import asyncio

        print(json.dumps(asyncio.run(our_side())))
        return
    ARMS.mkdir(parents=True, exist_ok=True)
    named = {argument for argument in sys.argv[1:] if not argument.startswith("-")}
    for name, run in ALL.items():
        path = ARMS / f"{name}.json"
        if "--list" in sys.argv or (named and name not in named) or (not named and path.exists()):
            print(f"{name}: {'stands' if path.exists() else 'missing'}")
            continue
        load = os.getloadavg()[0]
        figures = {"arm": name, **run(), "machine": machine(), "load_before": load}
        path.write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures))


def machine() -> str:
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {versions}"


if __name__ == "__main__":
    main()
