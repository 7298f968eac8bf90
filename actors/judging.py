"""A judge model: a language model that is shown two programs, in both orders, and says which is the better.

    order 1:  A = y, B = z      p1 = P("A")          order 2:  A = z, B = y      p2 = P("B")
    g(x, y, z) = p1 + p2 - 1                          in (-1, 1);  g(x, z, y) = (1 - p2) + (1 - p1) - 1 = -g(x, y, z)

P is over the two answer tokens alone: P("A") = exp(l_A) / (exp(l_A) + exp(l_B)). Asked in both orders, a model that
always says "A" says nothing: p1 + p2 = 1.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from typing import Any

from actors.comparison import JudgeTermConfig, TooLong
from actors.config import GeneratorConfig
from actors.engine import SamplingRequest, VllmEngine
from problems.prompting import PromptStyle, render_prompt


class Judge:
    """One vLLM engine that compares programs. All methods belong to one event loop."""

    def __init__(self, config: JudgeTermConfig, engine: GeneratorConfig, model_path: str) -> None:
        """Raises ValueError if an answer is not one token."""
        from transformers import AutoTokenizer

        self._config = config
        self._engine_config = engine
        self._model_path = model_path
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        self._answers = answer_tokens(self._tokenizer, config.answers)
        self._engine: VllmEngine | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count()

    async def score(self, comparisons: Sequence[tuple[str, str, str]]) -> list[float | TooLong]:
        """g(x, y, z) of each (prompt, answer, other answer). The first call loads the judge.

        Raises EngineUnavailableError, EngineDiedError.
        """
        return list(await asyncio.gather(*(self.compare(*comparison) for comparison in comparisons)))

    async def compare(self, prompt: str, answer: str, other: str) -> float | TooLong:
        """g of the module's head."""
        orders = [self.question(prompt, answer, other), self.question(prompt, other, answer)]
        longest = self._engine_config.max_model_len - 1
        if any(len(ids) > longest for ids in orders):
            return TooLong()
        first, second = await asyncio.gather(*(self._probability_of_first(ids) for ids in orders))
        return preference(first, second)

    def question(self, prompt: str, first: str, second: str) -> list[int]:
        """Token ids of one order."""
        text = self._config.question.format(prompt=prompt.rstrip(), first=first.rstrip(), second=second.rstrip())
        return render_prompt(text, PromptStyle(self._config.template, ()), self._tokenizer)

    async def _probability_of_first(self, ids: list[int]) -> float:
        engine = await self._started()
        number = next(self._numbers)
        request = SamplingRequest(f"judge-{number}", ids, 1, 1.0, number, (), (), None, allowed_token_ids=self._answers)
        sampled = await engine.sample(request)
        # The distribution sampled from is over the two answers alone, so one sample tells both probabilities.
        told = math.exp(sampled.logprobs[0])
        return told if sampled.token_ids[0] == self._answers[0] else 1.0 - told

    async def _started(self) -> VllmEngine:
        async with self._starting:
            if self._engine is None:
                self._engine = await VllmEngine.start(self._engine_config, self._model_path, "judge")
            return self._engine

    async def close(self) -> None:
        """Ends the engine."""
        if self._engine is not None:
            await self._engine.shutdown()


def preference(first_shown_first: float, first_shown_second: float) -> float:
    """g from P("A") where the answer stands as A, and P("A") where it stands as B.

    g = p1 + p2 - 1 with p2 = 1 - P("A" in the second order).
    """
    return first_shown_first + (1.0 - first_shown_second) - 1.0


def answer_tokens(tokenizer: Any, answers: Sequence[str]) -> tuple[int, int]:
    """The ids of the two answers. Raises ValueError if they are not two different tokens."""
    ids = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
    if any(len(one) != 1 for one in ids) or ids[0] == ids[1]:
        raise ValueError(
            f"field answers: {list(answers)} are not two different tokens of the judge's tokenizer ({ids}); "
            "name two words that are one token each, such as 'A' and 'B' with or without a blank before"
        )
    return ids[0][0], ids[1][0]
