"""Calls to actors: what is tried again, and what is not."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import ActorDiedError, ObjectStoreFullError, RayTaskError

from cluster.background import background
from cluster.calls import again_when_lost, within
from cluster.errors import ActorError, LostActorError


class Trainings:
    """Attempts at a training; each ends as ``ends`` says."""

    def __init__(self, *ends: Exception | str) -> None:
        self.ends = list(ends)
        self.reports: list[tuple[str, ...]] = []

    async def once(self) -> str:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    async def all(self, times: int) -> str:
        return await again_when_lost(
            self.once, who="tuner", times=times, report=lambda *what: self.reports.append(what)
        )


async def test_a_training_whose_actor_was_lost_is_begun_anew_and_told() -> None:
    trainings = Trainings(LostActorError("it died"), "done")
    assert await trainings.all(times=3) == "done"
    assert trainings.reports == [("tuner", "lost", "it died")]


async def test_the_last_loss_and_a_refusal_end_it() -> None:
    with pytest.raises(LostActorError, match="third"):
        await Trainings(LostActorError("first"), LostActorError("second"), LostActorError("third")).all(times=3)
    refused = Trainings(ActorError("no such model"), "never")
    with pytest.raises(ActorError, match="no such model"):
        await refused.all(times=3)
    assert refused.ends == ["never"]


async def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ActorDiedError(), LostActorError, r"^trainer could not train: ActorDiedError$"),
        (
            RayTaskError("step", "trace", ValueError("bad\ntrace")).as_instanceof_cause(),
            ActorError,
            r"^trainer could not train: bad$",
        ),
        (
            ObjectStoreFullError("x"),
            ActorError,
            r"^trainer could not train: Ray's object store is full, .*--object-store-memory",
        ),
    ],
)
async def test_what_an_actor_says_is_one_sentence_that_names_it(error: Exception, kind: type, said: str) -> None:
    with pytest.raises(ActorError, match=said) as caught:
        await within(failing(error), 5.0, "trainer", "train")
    assert type(caught.value) is kind


async def test_what_does_not_answer_is_lost() -> None:
    with pytest.raises(LostActorError, match=r"^trainer did not train within 0\.01 s$"):
        await within(asyncio.sleep(5), 0.01, "trainer", "train")


async def test_a_loop_that_is_cancelled_together_with_an_answer_ends() -> None:
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await within(answer, 5.0, "actor", "answer its health check")
            await asyncio.sleep(60)

    answer = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(5.0):
        async with background(loop):
            while not rounds:
                await asyncio.sleep(0)
            answer.set_result(None)
    assert rounds == 1
