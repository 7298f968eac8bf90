"""A tiny Qwen2, the trainer's copy of it, and a real engine around it: for the tests of the generator."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.config import GeneratorConfig
from actors.generator import GenerationRequest, GenerationResult, Generator
from actors.weights import ShmSender, bucketed
from problems.identity import TrajectoryId, WeightsVersion

VOCABULARY = 300
_BUCKET_BYTES = 100_000  # several buckets in a push


def make_tiny_qwen2(tied: bool) -> Any:
    """Two layers, 0.1M parameters, float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(int(tied))
    torch.set_num_threads(1)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    return Qwen2ForCausalLM(config).eval()


class TinyEngine:
    """A generator, and Hugging Face's model with the weights that it should have."""

    def __init__(self, model: Any, generator: Generator, sender: ShmSender) -> None:
        self.model = model
        self.generator = generator
        self.sender = sender
        self.version = generator.version

    @staticmethod
    def request(index: int, max_tokens: int = 24, temperature: float = 0.0, num_prompt: int = 20, **more: Any) -> Any:
        """A request whose prompt and seed depend on ``index`` alone."""
        prompt_ids = np.random.default_rng(index).integers(5, VOCABULARY, num_prompt, dtype=np.int32)
        id = TrajectoryId("run", "ppo", 0, f"p{index}", 0)
        return GenerationRequest(id, prompt_ids, max_tokens, temperature, **more)

    async def sample(self, requests: list[GenerationRequest]) -> list[GenerationResult]:
        """In the order of the requests."""
        results = {result.id: result async for result in self.generator.generate_group(requests)}
        return [results[request.id] for request in requests]

    async def wait_until_each_has(self, num_tokens: int) -> None:
        """Returns when every request in flight has that many tokens; vLLM itself tells nobody before the end."""
        states = self.generator._engine._llm.output_processor.request_states
        while not states or min(state.detokenizer.num_output_tokens() for state in states.values()) < num_tokens:
            await asyncio.sleep(0.002)

    def step(self) -> dict[str, str]:
        """As an optimizer step would: every parameter moves. Returns the ticket of the new version, published."""
        import torch

        self.version = self.version.next()
        torch.manual_seed(self.version.step)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3 * (parameter.std() + 0.01))
        return self.publish()

    def publish(self) -> dict[str, str]:
        return self.sender.publish(self.version, bucketed(self.model.named_parameters(), _BUCKET_BYTES))

    async def push(self, ticket: dict[str, str]) -> None:
        """All phases of one weight update."""
        version = WeightsVersion.parse(ticket["version"])
        await self.generator.verify(ticket)
        await self.generator.start(version)
        await self.generator.update(ticket)
        await self.generator.finish(version)

    def logits(self, result: GenerationResult, model: Any = None) -> Any:
        """[T, V], what each completion token was drawn from, before any temperature."""
        import torch

        turn = result.turn
        ids = torch.tensor([[*turn.prompt_ids.tolist(), *turn.completion_ids.tolist()]])
        with torch.no_grad():
            return (model or self.model)(ids).logits[0, len(turn.prompt_ids) - 1 : -1]

    def is_greedy(self, result: GenerationResult) -> Any:
        """bool [T], True where the token is the most likely one given all before it."""
        return self.logits(result).argmax(-1).numpy() == result.turn.completion_ids

    def logprobs(self, result: GenerationResult, temperature: float = 1.0, model: Any = None) -> Any:
        """float32 [T], log-probability of each completion token."""
        scaled = (self.logits(result, model) / temperature).log_softmax(-1).numpy()
        return scaled[np.arange(len(result.turn.completion_ids)), result.turn.completion_ids]


@pytest.fixture(scope="session")
def start_tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Awaitable[TinyEngine]]:
    """Starts an engine. Without vLLM the test is skipped, or fails where CRUCIBLE_REQUIRE_ENGINE=1."""
    if importlib.util.find_spec("vllm") is None:
        if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
            pytest.fail("vLLM is not installed, and CRUCIBLE_REQUIRE_ENGINE=1")
        pytest.skip("vLLM is not installed")
    from actors.engine import engine_environment

    os.environ.update(engine_environment("cpu"))

    async def start(tied: bool, folder: Path | None = None, **settings: Any) -> TinyEngine:
        model = make_tiny_qwen2(tied)
        folder = folder or tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        generator = Generator(GeneratorConfig(dtype="float32", max_model_len=768, **settings))
        await generator.start_engine(str(folder), WeightsVersion(0, 0))
        return TinyEngine(model, generator, ShmSender("test", root=tmp_path_factory.mktemp("weights")))

    return start


def engine_processes() -> list[int]:
    """Children of this process, but for Python's own resource tracker."""
    import psutil

    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.fixture(scope="session")
def child_processes() -> Callable[[], list[int]]:
    return engine_processes
