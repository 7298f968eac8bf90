"""Stage ``line_labels``: answers of several policies, and for each the first line from which it cannot be saved.

policy 1 .. n   sample + execute -> answers   (journalled: a resume reads them)
                failing answers  -> searches, all at once -> probes.jsonl, one line a probe (a resume repeats none)
all             -> labels.parquet
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from actors.lines import append_line
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.inputs import problems_of
from cluster.journal import JournalEntry, read_journal
from cluster.labels import LABELS, write_labels
from cluster.prober import Prober
from cluster.run_folder import StageFolder, mend_torn_line, read_lines
from cluster.stage_config import LineLabelsStage
from cluster.stages.sampled import sample_and_execute
from cluster.tokenizers import LoadedTokenizer
from learner.line_labels import LabelledAnswer, LineSearch, labels_of
from learner.trajectory import FinishReason
from problems.bytemap import ByteMap
from problems.extraction import extract_program
from problems.identity import TrajectoryId, WeightsVersion
from problems.linespans import LineSpan, line_spans
from problems.problem import Problem
from problems.tokenizer import vocabulary_digest


async def label_lines(context: RunContext, stage: LineLabelsStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Samples, searches, writes the labels, and returns the manifest's figures."""
    digests = {vocabulary_digest(context.tokenizer(context.model_path(name)).tokenizer) for name in _models(stage)}
    if len(digests) > 1:
        raise ConfigError(f"stages.{stage.name}: its policies and its completer have different tokenizers")
    records = ProbeRecords(folder)
    counts: Counter[str] = Counter()
    labelled: list[LabelledAnswer] = []
    names: set[str] = set()  # of the answers of all policies so far
    search_s = 0.0
    for index, policy in enumerate(stage.policies):
        entries = await _answers(context, stage, folder, lineage, index)
        completer = context.model_path(stage.completer or policy)
        await context.serve(completer, WeightsVersion(lineage, 2 * index + 1))
        loaded = context.tokenizer(completer)
        prober = Prober(
            context.generators, context.executors, style=loaded.style, token_bytes=loaded.token_bytes,
            sampling=stage.sampling, max_in_flight=stage.max_in_flight,
        )  # fmt: skip
        names |= {str(entry.trajectory.id) for entry in entries}
        budget = Budget(_share_until(stage, index), records.num_completions(names))
        searches = Searches(context.config.name, stage, index, prober, records, budget, counts)
        context.panel.begin(stage.name, 1.0)
        begun = time.monotonic()
        answers = _prepared(entries, problems_of(stage.problems), loaded, counts)
        labelled += await searches.run(answers, _shower(context, stage))
        search_s += time.monotonic() - begun
    if not labelled:
        raise ConfigError(f"stages.{stage.name}: no answer could be labelled ({dict(counts)})")
    write_labels(folder.root / LABELS, labelled, digests.pop())
    return _figures(labelled, counts) | {"search_s": round(search_s, 1)}


def _share_until(stage: LineLabelsStage, policy: int) -> int | None:
    """Completions for the policies up to this one: each has the same share, and what earlier ones left."""
    if stage.max_completions is None:
        return None
    return stage.max_completions * (policy + 1) // len(stage.policies)


def _models(stage: LineLabelsStage) -> list[str]:
    return [*stage.policies, *([stage.completer] if stage.completer else [])]


def _shower(context: RunContext, stage: LineLabelsStage) -> Any:
    def show(done: int, num_answers: int, policy: int) -> None:
        share = (policy + done / max(num_answers, 1)) / len(stage.policies)
        context.panel.progress(stage.name, share, f"policy {policy + 1}: {done}/{num_answers} answers labelled")

    return show


async def _answers(
    context: RunContext, stage: LineLabelsStage, folder: StageFolder, lineage: int, index: int
) -> list[JournalEntry]:
    """The policy's executed answers: those of an earlier start of this stage where it had sampled them."""
    part = StageFolder(folder.root)
    part.trajectories = folder.trajectories / f"policy-{index}"
    earlier = sorted(part.trajectories.glob("step-*.parquet"))
    if earlier:
        return read_journal(earlier[0])
    model, version = stage.policies[index], WeightsVersion(lineage, 2 * index)
    sampled = await sample_and_execute(context, stage, part, version, model=model, epoch=index)
    return sampled.entries


@dataclass(frozen=True, slots=True)
class Prepared:
    """One executed answer with its lines."""

    entry: JournalEntry
    problem: Problem
    spans: tuple[LineSpan, ...]

    @property
    def name(self) -> str:
        return str(self.entry.trajectory.id)

    @property
    def counted(self) -> list[LineSpan]:
        """Lines that are not neutral."""
        return [span for span in self.spans if not span.is_neutral]


def _prepared(
    entries: list[JournalEntry], problems: list[Problem], loaded: LoadedTokenizer, counts: Counter[str]
) -> list[Prepared]:
    """Answers that could be judged; one that the limit cut is one that fails. The others are counted."""
    by_id = {problem.id: problem for problem in problems}
    prepared: list[Prepared] = []
    for entry in entries:
        if entry.trajectory.drop_reason is not None:
            counts["no_line" if entry.trajectory.drop_reason == "empty" else "not_judged"] += 1
            continue
        turn, problem = entry.trajectory.turns[-1], by_id[entry.trajectory.id.problem_id]
        pieces = loaded.token_bytes.pieces(turn.completion_ids.tolist())
        extraction = extract_program(problem, b"".join(pieces))
        is_cut = turn.finish_reason is FinishReason.LENGTH
        byte_map = ByteMap.build(pieces, extraction)
        spans = line_spans(extraction.program, byte_map, problem.language, is_cut=is_cut)
        prepared.append(Prepared(entry, problem, spans))
        counts["cut"] += is_cut
    return prepared


class ProbeRecords:
    """The probes of this stage, those of earlier starts included: one line each, appended when it is answered."""

    def __init__(self, folder: StageFolder) -> None:
        self._file = folder.root / "probes.jsonl"
        mend_torn_line(self._file)
        self._known: dict[tuple[str, int], dict[str, Any]] = {
            (record["answer"], record["lines"]): record for record in read_lines(self._file)
        }

    def num_completions(self, answers: Collection[str]) -> int:
        """Asked for so far, for these answers."""
        return sum(record["completions"] for record in self._known.values() if record["answer"] in answers)

    def known(self, answer: str, lines: int) -> tuple[bool, int] | None:
        """(good, completions) of a probe that was made; None otherwise."""
        record = self._known.get((answer, lines))
        return None if record is None else (record["good"], record["completions"])

    def add(self, answer: str, lines: int, is_good: bool, num_completions: int) -> None:
        record = {"answer": answer, "lines": lines, "good": is_good, "completions": num_completions}
        self._known[answer, lines] = record
        append_line(self._file, record, sync=False)


class Budget:
    """Completions that may still be asked for. What a search may cost is set aside before it begins."""

    def __init__(self, limit: int | None, spent: int = 0) -> None:
        self._left = float("inf") if limit is None else limit - spent
        self._num_running = 0
        self._changed = asyncio.Condition()

    async def set_aside(self, amount: int) -> bool:
        """Whether there is enough, now or when searches that run have given back what they did not need."""
        async with self._changed:
            await self._changed.wait_for(lambda: amount <= self._left or not self._num_running)
            if amount > self._left:
                return False
            self._left -= amount
            self._num_running += 1
            return True

    async def give_back(self, amount: int) -> None:
        """At the end of a search: what it did not need."""
        async with self._changed:
            self._left += amount
            self._num_running -= 1
            self._changed.notify_all()


class Searches:
    """The searches of one policy's answers, all in flight together; the prober bounds what is sampled at once."""

    def __init__(
        self,
        run: str,
        stage: LineLabelsStage,
        policy: int,
        prober: Prober,
        records: ProbeRecords,
        budget: Budget,
        counts: Counter[str],
    ) -> None:
        self._run = run
        self._stage = stage
        self._policy = policy
        self._prober = prober
        self._records = records
        self._budget = budget
        self._counts = counts

    async def run(self, answers: list[Prepared], show: Any) -> list[LabelledAnswer]:
        """Labels; answers that could not be labelled are counted and left out."""
        done = 0

        async def one(answer: Prepared) -> LabelledAnswer | None:
            nonlocal done
            labelled = await self._label(answer)
            done += 1
            show(done, len(answers), self._policy)
            return labelled

        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(one(answer)) for answer in answers]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [labelled for task in running if (labelled := task.result()) is not None]

    async def _label(self, answer: Prepared) -> LabelledAnswer | None:
        """Searches one answer; None if it has no line, if the budget is spent, or if a fault of ours was in the way."""
        num_lines = len(answer.counted)
        if not num_lines:
            self._counts["no_line"] += 1
            return None
        if answer.entry.trajectory.passed:
            return self._labelled(answer, num_lines, 0, 0)
        search, spent = LineSearch(num_lines), 0
        while (lines := search.probe) and (known := self._records.known(answer.name, lines)):  # an earlier start's
            search.answer(known[0])
            spent += known[1]
        if search.probe is not None:
            reserve, new = search.most_probes * self._stage.completions, 0
            if not await self._budget.set_aside(reserve):
                self._counts["over_budget"] += 1
                return None
            try:
                while (lines := search.probe) is not None:
                    probed = await self._probe(answer, lines)
                    new += probed.num_completions
                    if probed.is_good is None:
                        self._counts["not_judged"] += 1
                        return None
                    self._records.add(answer.name, lines, probed.is_good, probed.num_completions)
                    search.answer(probed.is_good)
            finally:
                await self._budget.give_back(reserve - new)
            spent += new
        return self._labelled(answer, search.num_good, search.num_probes, spent)

    async def _probe(self, answer: Prepared, lines: int) -> Any:
        turn = answer.entry.trajectory.turns[-1]
        identity = answer.entry.trajectory.id
        name = f"{self._stage.name}.probe.{identity.sample_index}.{lines}"
        probe = TrajectoryId(self._run, name, self._policy, answer.problem.id, 0)
        ids = [replace(probe, sample_index=index) for index in range(self._stage.completions)]
        prefix = turn.completion_ids[: answer.counted[lines - 1].token + 1].tolist()
        return await self._prober.probe(answer.problem, turn.prompt_ids.tolist(), prefix, ids)

    def _labelled(self, answer: Prepared, num_good: int, num_probes: int, num_completions: int) -> LabelledAnswer:
        turn = answer.entry.trajectory.turns[-1]
        return LabelledAnswer(
            answer.problem.id,
            answer.name,
            self._stage.policies[self._policy],
            tuple(turn.prompt_ids.tolist()),
            tuple(turn.completion_ids.tolist()),
            bool(answer.entry.trajectory.passed),
            tuple(span.token for span in answer.spans),
            tuple(labels_of([span.is_neutral for span in answer.spans], num_good)),
            num_probes,
            num_completions,
            answer.entry.program.decode("utf-8", "replace"),
            answer.problem.language,
        )


def _figures(labelled: list[LabelledAnswer], counts: Counter[str]) -> dict[str, Any]:
    failing = [answer for answer in labelled if not answer.passed]
    return {
        "num_answers": len(labelled),
        "pass_rate": 1 - len(failing) / len(labelled),
        "num_probes": sum(answer.num_probes for answer in labelled),
        "num_completions": sum(answer.num_completions for answer in labelled),
        "num_revised": sum(answer.num_good > 0 for answer in failing),
        "num_nothing_found": sum(answer.num_good == 0 for answer in failing),
        "num_over_budget": counts["over_budget"],
        "num_not_judged": counts["not_judged"],
        "num_without_lines": counts["no_line"],
        "num_cut": counts["cut"],
        "mean_lines": sum(len(answer.counted) for answer in labelled) / len(labelled),
    }
