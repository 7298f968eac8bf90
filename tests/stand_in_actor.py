"""The stand-in engine as a Ray actor, and `crucible` with it in vLLM's place. Settings lie in the model's folder.

python -m tests.stand_in_actor run RECIPE
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from actors.config import GeneratorConfig
from actors.generator import GenerationRequest
from cluster.generator_pool import Generated, GeneratorPool
from cluster.presence import Present
from problems.identity import WeightsVersion
from tests.patient_ray import be_patient
from tests.stand_in_engine import StandInConfig, StandInGenerator

SETTINGS = "stand_in.json"
PUSH_MARK = "in-a-push"
TURNS = "turns.jsonl"


class StandInActor(StandInGenerator, Present):
    """As ``cluster.generator_pool.GeneratorActor``.

    ``stand_in.json``: the fields of StandInConfig, and ``slow``: {name of a generator: its tokens_per_s}. While it is
    in a weight push, the file ``in-a-push`` beside the settings names its process.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        del config
        super().__init__(StandInConfig())
        self._slow: dict[str, float] = {}
        self._mark: Path | None = None

    async def start_engine(self, model_path: str, version: WeightsVersion) -> None:
        settings = json.loads((Path(model_path) / SETTINGS).read_text())
        self._slow = settings.pop("slow", {})
        super().__init__(StandInConfig(**settings))
        self._mark = Path(model_path) / PUSH_MARK
        await super().start_engine(model_path, version)

    async def stream_group(self, who: str, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        if who in self._slow:
            self._config = replace(self._config, tokens_per_s=self._slow[who])
        start = time.time()
        async for result in self.generate_group(requests):
            yield Generated(result, who, start, time.time())

    async def sleep(self) -> None:
        await super().sleep()
        self._write_turn("sleeps")

    async def finish(self, version: WeightsVersion) -> None:
        await super().finish(version)
        self._write_turn("serves")

    def _write_turn(self, what: str) -> None:
        assert self._mark is not None
        with self._mark.with_name(TURNS).open("a") as turns:
            turns.write(json.dumps({"time": time.time(), "what": what}) + "\n")

    async def update(self, ticket: dict[str, str]) -> None:
        assert self._mark is not None
        self._mark.write_text(str(self.presence().pid))
        try:
            await super().update(ticket)
        finally:
            self._mark.unlink(missing_ok=True)


def main() -> None:
    import cluster.context
    from cluster.cli import main as crucible

    be_patient()
    cluster.context.GeneratorPool = functools.partial(GeneratorPool, kind=StandInActor)
    crucible()


if __name__ == "__main__":
    from tests.stand_in_actor import main as importable_main  # so that Ray names the class by its module, not __main__

    importable_main()
