"""The stage's searches with an oracle in place of models, and label files."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ConfigError, RunFolderError
from cluster.journal import JournalEntry
from cluster.labels import read_labels, write_labels
from cluster.prober import Probed
from cluster.run_folder import StageFolder
from cluster.stage_config import LineLabelsStage, ProblemSource
from cluster.stages.line_labels import Budget, Prepared, ProbeRecords, Searches, _figures, _prepared
from learner.line_labels import LabelledAnswer
from learner.trajectory import FinishReason
from tests.cluster.test_rollout import PROBLEM, token_bytes
from tests.learner.conftest import trajectory

K = 5


def prepared(sample: int, body: str, *, passed: bool = False, reason: FinishReason = FinishReason.STOP) -> Prepared:
    made = trajectory(0, sample, completion=tuple(body.encode()), finish_reason=reason)
    entry = JournalEntry(replace(made, passed=passed), b"", "x")

    class Loaded:
        def __init__(self) -> None:
            self.token_bytes = token_bytes()

    problem = replace(PROBLEM, id=made.id.problem_id)
    return _prepared([entry], [problem], Loaded(), Counter())[0]


class Oracle:
    """Knows the first bad line of each answer, by its sample index; ``None``: a fault of ours."""

    def __init__(self, num_good: dict[int, int | None]) -> None:
        self.num_good = num_good
        self.asked: list[tuple[int, int, str]] = []

    async def probe(self, _problem, _prompt_ids, prefix_ids, ids) -> Probed:
        await asyncio.sleep(0)
        _, _, sample, lines = ids[0].stage.split(".")
        text = bytes(prefix_ids).decode()
        self.asked.append((int(sample), int(lines), text))
        good = self.num_good[int(sample)]
        return Probed(None if good is None else int(lines) <= good, len(ids))


def stage(**fields) -> LineLabelsStage:
    problems = (ProblemSource(spec="synthetic:split=train,count=3"),)
    return LineLabelsStage(name="labels", policies=("stage:a",), problems=problems, completions=K, **fields)


async def label(folder: Path, oracle: Oracle, answers: list[Prepared], **fields):
    records, counts = ProbeRecords(StageFolder(folder)), Counter()
    budget = Budget(stage(**fields).max_completions, records.num_completions({answer.name for answer in answers}))
    searches = Searches("run", stage(**fields), 0, oracle, records, budget, counts)
    return await searches.run(answers, lambda *_: None), counts


BODY = "a = 1\n# why\nb = 2\n\nc = 3\nd = 4\n"  # four lines that count


async def test_labels_follow_the_oracle_and_neutral_lines_are_0(tmp_path: Path) -> None:
    for num_good, expected in enumerate(
        ([-1, 0, -1, 0, -1, -1], [1, 0, -1, 0, -1, -1], [1, 0, 1, 0, -1, -1], [1, 0, 1, 0, 1, -1], [1, 0, 1, 0, 1, 1])
    ):
        oracle = Oracle({0: num_good})
        (labelled,), _ = await label(tmp_path / str(num_good), oracle, [prepared(0, BODY)])
        assert list(labelled.labels) == expected
        assert labelled.num_probes == len(oracle.asked) <= 3  # ceil(log2(4 + 1))
        assert labelled.num_completions == K * labelled.num_probes


async def test_a_prefix_ends_with_its_line_and_holds_the_comments_before(tmp_path: Path) -> None:
    oracle = Oracle({0: 1})
    await label(tmp_path, oracle, [prepared(0, BODY)])
    assert oracle.asked == [(0, 2, "a = 1\n# why\nb = 2\n"), (0, 1, "a = 1\n")]


async def test_a_pass_costs_nothing_and_is_good_but_for_its_comments(tmp_path: Path) -> None:
    oracle = Oracle({})
    (labelled,), _ = await label(tmp_path, oracle, [prepared(0, BODY, passed=True)])
    assert (list(labelled.labels), labelled.num_probes, oracle.asked) == ([1, 0, 1, 0, 1, 1], 0, [])


async def test_a_cut_answer_is_searched_without_its_last_line(tmp_path: Path) -> None:
    (labelled,), _ = await label(tmp_path, Oracle({0: 1}), [prepared(0, "a\nb\nhalf", reason=FinishReason.LENGTH)])
    assert list(labelled.labels) == [1, -1]


async def test_answers_without_a_line_and_faults_of_ours_are_counted_and_left_out(tmp_path: Path) -> None:
    answers = [prepared(0, "# nothing\n"), prepared(1, BODY), prepared(2, BODY)]
    labelled, counts = await label(tmp_path, Oracle({1: None, 2: 0}), answers)
    assert [answer.name[-3] for answer in labelled] == ["2"]
    assert counts == {"no_line": 1, "not_judged": 1}
    assert _figures(labelled, counts)["num_nothing_found"] == 1


def test_what_was_not_executed_or_is_empty_is_counted_and_a_cut_answer_is_counted_as_such() -> None:
    counts, loaded = Counter(), SimpleNamespace(token_bytes=token_bytes())
    entries = [
        JournalEntry(replace(trajectory(0, sample, completion=(97, 10), finish_reason=reason), drop_reason=dropped))
        for sample, (reason, dropped) in enumerate(
            [
                (FinishReason.STOP, None),
                (FinishReason.LENGTH, None),
                (FinishReason.STOP, "infrastructure:test_share"),
                (FinishReason.STOP, "empty"),
            ]
        )
    ]
    problem = replace(PROBLEM, id=entries[0].trajectory.id.problem_id)
    kept = _prepared(entries, [problem], loaded, counts)
    assert [answer.entry.trajectory.id.sample_index for answer in kept] == [0, 1]
    assert {name: count for name, count in counts.items() if count} == {"cut": 1, "not_judged": 1, "no_line": 1}
    one = LabelledAnswer("p", "a", "m", (1,), (97, 10), False, (1,), (-1,))
    figures = _figures([one], counts)
    assert (figures["num_cut"], figures["num_not_judged"], figures["num_without_lines"]) == (1, 1, 1)


async def test_a_second_start_asks_nothing_again(tmp_path: Path) -> None:
    answers = [prepared(0, BODY), prepared(1, BODY)]
    first, _ = await label(tmp_path, Oracle({0: 1, 1: 3}), answers)
    with (tmp_path / "probes.jsonl").open("a") as file:
        file.write('{"answer": "torn')
    silent = Oracle({})
    second, _ = await label(tmp_path, silent, answers)
    assert second == first
    assert silent.asked == []


async def test_a_start_after_a_kill_asks_only_what_is_missing(tmp_path: Path) -> None:
    first, _ = await label(tmp_path, Oracle({0: 1}), [prepared(0, BODY)])
    lines = (tmp_path / "probes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "probes.jsonl").write_text(lines[0])
    oracle = Oracle({0: 1})
    second, _ = await label(tmp_path, oracle, [prepared(0, BODY)], max_completions=3 * K)
    assert second == first
    assert [lines for _, lines, _ in oracle.asked] == [1]


async def test_the_budget_is_never_overdrawn_and_what_a_search_did_not_need_is_given_back(tmp_path: Path) -> None:
    # each search of four lines may take 3 probes and takes 2; 5 pay for the first and, with what it gives back, another
    answers = [prepared(index, BODY) for index in range(3)]
    oracle = Oracle({0: 1, 1: 1, 2: 1})
    labelled, counts = await label(tmp_path, oracle, answers, max_completions=5 * K)
    assert len(labelled) == 2
    assert counts == {"over_budget": 1}
    assert len(oracle.asked) == 4


def answers_of(tmp_path: Path):
    return asyncio.run(label(tmp_path, Oracle({0: 2}), [prepared(0, BODY), prepared(1, BODY, passed=True)]))[0]


def test_label_files_come_back_as_they_were_written_and_any_reader_of_parquet_reads_them(tmp_path: Path) -> None:
    answers = answers_of(tmp_path / "stage")
    write_labels(tmp_path / "labels.parquet", answers, "abc")
    assert read_labels(tmp_path / "labels.parquet", "abc") == answers
    assert pq.read_table(tmp_path / "labels.parquet")["labels"].to_pylist()[0] == [1, 0, 1, 0, -1, -1]


def test_labels_of_another_tokenizer_and_broken_files_are_refused(tmp_path: Path) -> None:
    answers = answers_of(tmp_path / "stage")
    path = tmp_path / "labels.parquet"
    write_labels(path, answers, "abc")
    with pytest.raises(ConfigError, match=r"token ids of tokenizer abc, the model's is xyz; label answers with"):
        read_labels(path, "xyz")
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("labels"), "labels", [[[3], [1]]]), path)
    with pytest.raises(RunFolderError, match="labels"):
        read_labels(path, "abc")
    empty = pa.array([None] * len(answers), pa.list_(pa.int8()))
    pq.write_table(table.set_column(table.schema.get_field_index("labels"), "labels", empty), path)
    with pytest.raises(RunFolderError, match=r"labels\.parquet: "):
        read_labels(path, "abc")
    path.write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match=r"labels\.parquet cannot be read"):
        read_labels(path, "abc")
