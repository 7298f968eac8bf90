"""The driver's side of ``crucible scale``: answers requests, and asks Ray's autoscaler for what they need."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cluster.autoscaler import ask_autoscaler
from cluster.control import ANSWER, POLL_S, REQUEST, Answer, ScaleRequest
from cluster.errors import ScaleError
from cluster.placement import Bundle, bundles_of, cluster_nodes, place, shortfall
from cluster.run_folder import write_atomically

if TYPE_CHECKING:
    from cluster.context import RunContext


class Control:
    """Looks into the run's folder for requests."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._folder = context.folder.control
        self._is_busy = False

    async def serve(self) -> None:
        """Consumes requests; waits between looks at the folder; is unblocked by a new file. Ends when cancelled."""
        async with asyncio.TaskGroup() as answers:
            seen: set[Path] = set()
            while True:
                for path in sorted(set(self._folder.glob(f"*{REQUEST}")) - seen):
                    seen.add(path)
                    answers.create_task(self._answer(path))
                await asyncio.sleep(POLL_S)

    async def _answer(self, path: Path) -> None:
        try:
            request = ScaleRequest.model_validate_json(path.read_bytes())
            answer = Answer(done=True, sentence=await self._scale(request))
        except FileNotFoundError:
            return  # whoever asked has given up
        except ScaleError as error:
            answer = Answer(done=False, sentence=str(error))
        except ValidationError as error:
            answer = Answer(done=False, sentence=f"the request is malformed: {error.errors()[0]['msg']}")
        write_atomically(path.with_name(path.name.removesuffix(REQUEST) + ANSWER), answer.model_dump_json())
        path.unlink(missing_ok=True)

    async def _scale(self, request: ScaleRequest) -> str:
        """Returns what was changed. Raises ScaleError where the cluster has no room for what is to come."""
        if self._is_busy:
            raise ScaleError("another request waits for room; nothing was changed, ask again when it is answered")
        self._is_busy = True
        try:
            return await self._scale_alone(request)
        finally:
            self._is_busy = False

    async def _scale_alone(self, request: ScaleRequest) -> str:
        pools = self._context.generators, self._context.executors
        before = pools[0].count, pools[1].count
        after = request.generators or before[0], request.executors or before[1]
        if self._context.shares_gpu and after[0] > 1:
            raise ScaleError("placement colocated is one GPU with one generator; nothing was changed")
        have, wanted = self._bundles(*before), self._bundles(*after)
        # A stage that samples nothing has no generators yet, and those of the next one need their room then.
        held = {bundle.who for bundle in have if pools[0].running or not bundle.who.startswith("generator-")}
        more = [bundle for bundle in wanted if bundle.who not in held]
        await asyncio.to_thread(ask_autoscaler, wanted)
        deadline = time.monotonic() + request.wait_s
        while lack := await asyncio.to_thread(lambda: shortfall(place(more, cluster_nodes())) if more else ""):
            if time.monotonic() >= deadline:
                await asyncio.to_thread(ask_autoscaler, have)
                raise ScaleError(
                    f"the cluster has no room: {lack}; nothing was changed (--wait SECONDS lets nodes come)"
                )
            await asyncio.sleep(1.0)
        for pool, count in zip(pools, after, strict=True):
            if count != pool.count:
                pool.scale(count)
        said = ", ".join(f"{pool.name}s {old} -> {new}" for pool, old, new in zip(pools, before, after, strict=True))
        self._context.report("run", "scaled", said)
        return said

    def _bundles(self, generators: int, executors: int) -> list[Bundle]:
        """What the run reserves with so many actors."""
        config = self._context.config
        counts = {
            "generators": config.generators.model_copy(update={"count": generators}),
            "executors": config.executors.model_copy(update={"count": executors}),
        }
        return bundles_of(config.model_copy(update=counts))
