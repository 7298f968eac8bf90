"""RLCF in stages: its settings, the pairs of a discriminator, and the measures of an evaluation."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from actors.compiler import CompilerTerm, CompilerTermConfig
from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.evaluation import evaluation_of
from cluster.journal import JournalEntry, read_journal, write_journal
from cluster.recipe import load_recipe
from cluster.rollout import Group
from cluster.roster import unheard
from cluster.stage_config import ProblemSource
from cluster.stages import ppo
from cluster.stages.discriminator import pairs_of, with_sound_references
from cluster.stages.figures import event_shares
from cluster.stages.measures import measures_by_source, measures_of, shares_of
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, Problem
from sandbox.verdict import Diagnostic, Outcome, Verdict

HEAD = "class S { static int f(int a) {\n"
PROBLEM = Problem("p", "java", HEAD, CompletionStyle.CONTINUE, {}, reference_completions=("return a + a; } }",))


def entry(
    own: str,
    *terms: tuple[str, float],
    outcome: str = "",
    sample: int = 0,
    error: str = "",
    problem: str = "p",
) -> JournalEntry:
    turn = Turn(
        np.array([1], np.int32), np.array([2], np.int32), np.ones(1, np.bool_), np.full(1, -0.5, np.float32),
        (VersionSpan(WeightsVersion(0, 0), 0, 1),), FinishReason.STOP,
    )  # fmt: skip
    events = tuple(RewardEvent(*term) for term in terms)
    trajectory = Trajectory(TrajectoryId("r", "s", 0, problem, sample), 0, (turn,), events)
    return JournalEntry(trajectory, (HEAD + own).encode(), outcome, compile_error=error)


CUT = {"kind": "length_cut", "value": -1.0}


def recipe(**ppo) -> RunConfig:
    problems = [{"spec": "synthetic:split=train,count=3,language=java"}]
    stages = [
        {"kind": "sft", "name": "base"},
        {"kind": "discriminator", "name": "d", "model": "stage:base", "encoder": "stage:base", "problems": problems},
        {"kind": "ppo", "name": "ppo", "policy": "stage:base", "problems": problems, **ppo},
    ]
    return RunConfig.model_validate({"name": "r", "stages": stages})


def test_terms_that_compile_need_no_execution_but_a_word_on_cut_programs():
    both = [{"kind": "compiler"}, {"kind": "comparison", "model": "stage:d"}]
    config = recipe(rewards=[*both, CUT], execute_share=0.0)
    assert [term.kind for term in config.stages[2].rewards] == ["compiler", "comparison", "length_cut"]
    with pytest.raises(ValueError, match="compiler says nothing of a completion that the token limit cut"):
        recipe(rewards=both)
    with pytest.raises(ValueError, match="'base' is no earlier stage of kind discriminator"):
        recipe(rewards=[both[0], {"kind": "comparison", "model": "stage:base"}, CUT])


def test_no_way_out_of_being_compared_pays_more_than_a_program_that_does_not_compile():
    compiler, comparison = {"kind": "compiler"}, {"kind": "comparison", "model": "stage:d"}
    with pytest.raises(ValueError, match=r"cut earns -0.2 and a program that does not compile -1: lower length_cut"):
        recipe(rewards=[compiler, comparison, {"kind": "length_cut"}])
    with pytest.raises(ValueError, match=r"comparison compares what compiles, .*: name compiler too, or set"):
        recipe(rewards=[comparison, CUT])
    assert recipe(rewards=[comparison | {"compiling_only": False}, CUT])
    judge = {"kind": "judge", "model": "some/model"}
    poorly = r"compares poorly earns -2 and one that does not compile -1: lower compiler\.value"
    for others in ([comparison, judge], [comparison | {"weight": 2.0}]):
        with pytest.raises(ValueError, match=poorly):
            recipe(rewards=[compiler, *others, CUT])
    lower = compiler | {"value": -2.0}
    assert recipe(rewards=[lower, comparison, judge, CUT | {"value": -2.0}])
    with pytest.raises(ValueError, match=r"cut earns -1 and a program that does not compile -2"):
        recipe(rewards=[lower, comparison, judge, CUT])
    with pytest.raises(ValueError, match=r"cut earns -0.2 and a program that compares poorly -1"):
        recipe(rewards=[comparison | {"compiling_only": False}, {"kind": "length_cut"}])


def test_a_discriminator_is_not_refreshed_on_programs_that_do_not_compile():
    every = {"kind": "comparison", "model": "stage:d", "compiling_only": False, "refresh_every_steps": 5}
    with pytest.raises(ValueError, match=r"comparison\.refresh_every_steps learns from what was compared"):
        recipe(rewards=[{"kind": "compiler"}, every, CUT])


@pytest.mark.parametrize("name", ["rlcf.yaml", "rlcf_sft.yaml", "rlcf_codegen_350m.yaml"])
def test_the_recipes_are_read(name):
    folder = Path(__file__).parents[2] / "recipes"
    assert load_recipe(folder / name).stages


async def test_problems_without_a_sound_reference_make_no_pairs_and_are_counted():
    async def check(program):
        bad = b"bad" in program.source
        found = (Diagnostic("compiler.err.expected", "", 1, 1),) if bad else ()
        return Verdict(Outcome.COMPILE_ERROR if bad else Outcome.PASSED, 1, diagnostics=found)

    rules = CompilerTermConfig()
    missing = Problem("q", "java", HEAD, CompletionStyle.CONTINUE, {})
    broken = Problem("b", "java", HEAD, CompletionStyle.CONTINUE, {}, reference_completions=("bad",))
    foreign = Problem("c", "cobol", "?", CompletionStyle.CONTINUE, {}, reference_completions=("STOP RUN.",))
    term = CompilerTerm(rules, rules.checker(check))
    kept, left_out = await with_sound_references(term, [PROBLEM, missing, broken, foreign])
    assert [problem.id for problem in kept] == ["p"]
    assert left_out == {"no_reference": 1, "bad_reference": 1, "no_compiler": 1}


def test_problems_whose_language_has_no_compiler_are_left_out_and_counted_and_none_left_is_an_error(monkeypatch):
    foreign = Problem("c", "cobol", "?", CompletionStyle.CONTINUE, {})
    sets = {"mixed": [PROBLEM, foreign], "foreign": [foreign]}
    monkeypatch.setattr(ppo, "problems_of", lambda sources: [one for source in sources for one in sets[source.spec]])
    logged = []
    context = SimpleNamespace(metrics=SimpleNamespace(log=lambda *record: logged.append(record)))
    stage = recipe(rewards=[{"kind": "compiler"}, CUT]).stages[2]
    assert ppo._compiled(context, stage, ProblemSource(spec="mixed")) == [PROBLEM]
    assert logged == [("ppo", 0, {"compiler/no_compiler_prompts": 1.0})]
    with pytest.raises(ConfigError, match="'foreign' has no problem in java or python"):
        ppo._compiled(context, stage, ProblemSource(spec="foreign"))


def test_pairs_are_of_programs_that_compile_once_each_and_never_of_the_reference_itself():
    compiles = ("compiler.compiles", 0.0)
    entries = (
        entry("return a * 2; } }", compiles),
        entry("return a * 2; } }  \n", compiles, sample=1),
        entry("return  a + a; } }\n", compiles, sample=2),
        entry("return b; } }", ("compiler.unresolved_symbol", -1.0), sample=3),
    )
    pairs, num_same = pairs_of([Group(0, PROBLEM, entries)])
    assert [(pair.problem_id, pair.prompt, pair.generated, pair.reference) for pair in pairs] == [
        ("p", HEAD, "return a * 2; } }\n", "return a + a; } }\n")
    ]
    assert num_same == 1


def test_events_are_counted_by_trajectory_and_comparisons_by_what_they_came_to():
    entries = [
        entry("", ("compiler.syntax", -0.5), ("compiler.syntax", -0.5), ("compiler.outside", 0.0)),
        entry("", ("compiler.compiles", 0.0), ("comparison.compared", 0.5)),
        entry("", ("compiler.compiles", 0.0), ("comparison.compared", -0.1)),
        entry("", ("length_cut", -1.0)),
    ]
    assert event_shares(entries) == pytest.approx({
        "compiler/syntax": 0.25, "compiler/outside": 0.25, "compiler/compiles": 0.5, "comparison/compared": 0.5,
        "comparison/mean": 0.2, "comparison/spread": 0.3,
    })  # fmt: skip


def test_the_three_measures_by_hand(tmp_path):
    entries = [
        entry("return a; } }", outcome="passed"),
        entry("return a; } } // no", outcome="wrong_answer", sample=1),
        entry("return a; } }", outcome="runtime_error", sample=2),
        entry("return b; } }", outcome="compile_error", sample=3, error="unresolved_symbol"),
        entry("return b; } }", outcome="infrastructure_error", sample=4),
    ]
    path = write_journal(tmp_path, WeightsVersion(0, 0), entries)
    assert [one.compile_error for one in read_journal(path)] == ["", "", "", "unresolved_symbol", ""]
    figures = measures_of([Group(0, PROBLEM, tuple(read_journal(path)))])
    assert {name: figures[name]["mean"] for name in ("compiles", "executes", "passes")} == {
        "compiles": 0.75, "executes": 0.5, "passes": 0.25,
    }  # fmt: skip
    assert figures["compile_errors"] == {"unresolved_symbol": 1}
    assert figures["code_tokens"] == 5
    assert measures_of([]) == {}


def test_two_sets_have_figures_of_their_own():
    """MBJP and MathQA-Java in one evaluation: the mean over both says nothing of either."""
    first = Group(0, replace(PROBLEM, source="mbjp:a"), (entry("return a; } }", outcome="passed"),))
    second = Group(1, replace(PROBLEM, id="q", source="mathqa-java:b"), (entry("return", outcome="compile_error"),))
    broken = Group(2, replace(PROBLEM, id="r", source="c"), (entry("x", outcome="infrastructure_error"),))
    sets = measures_by_source([first, second, broken])
    assert {source: shares_of(figures) for source, figures in sets.items()} == {
        "mbjp:a": {"compiles": 1.0, "executes": 1.0, "passes": 1.0},
        "mathqa-java:b": {"compiles": 0.0, "executes": 0.0, "passes": 0.0},
    }
    assert shares_of(measures_of([first, second, broken])) == {"compiles": 0.5, "executes": 0.5, "passes": 0.5}


async def test_a_stages_comparisons_go_back_with_its_checkpoint(tmp_path, monkeypatch):
    from cluster.stages import comparing
    from learner.scalar_config import DiscriminatorConfig

    monkeypatch.setattr(comparing, "read_config", lambda _: DiscriminatorConfig())
    rewards = [{"kind": "compiler"}, {"kind": "comparison", "model": "stage:d", "refresh_every_steps": 5}]
    config = recipe(rewards=[*rewards, CUT])
    context = SimpleNamespace(config=config, model_path=lambda reference: tmp_path / reference, report=unheard)
    folder = tmp_path / "ppo"
    for step in (5, 10, 15):
        (folder / "discriminators" / f"step-{step:06d}").mkdir(parents=True)
    (folder / "discriminators" / "step-000020.partial").mkdir()
    made = comparing.Comparisons(context, config.stages[2], SimpleNamespace(root=folder))
    made.rewind(12)
    assert made._comparers is not None
    assert made._comparers._model.name == "step-000010"
    assert sorted(path.name for path in (folder / "discriminators").iterdir()) == ["step-000005", "step-000010"]
    made.rewind(0)
    assert made._comparers._model == tmp_path / "stage:d"


async def test_a_refresh_learns_the_same_whether_or_not_the_stage_was_stopped_in_between(tmp_path, monkeypatch):
    """Every three steps. One run goes through; one is stopped after step 5, and one in the refresh of step 3."""
    from cluster.stages import comparing
    from learner.scalar_config import DiscriminatorConfig

    monkeypatch.setattr(comparing, "read_config", lambda _: DiscriminatorConfig())
    rewards = [{"kind": "compiler"}, {"kind": "comparison", "model": "stage:d", "refresh_every_steps": 3}]
    config = recipe(rewards=[*rewards, CUT], learner={"num_steps": 9})
    context = SimpleNamespace(config=config, model_path=lambda reference: tmp_path / reference, report=unheard)
    compared = ("comparison.compared", -0.5)
    problems = [replace(PROBLEM, id=f"p{number}") for number in range(40)]

    def step_of(number):
        """One answer to each problem, the same in each step for the first of them."""
        return [
            Group(at, one, (entry(f"return {number if at else 0}; }} }}", compared, problem=one.id),))
            for at, one in enumerate(problems)
        ]

    def comparisons(name):
        learned = []
        made = comparing.Comparisons(context, config.stages[2], SimpleNamespace(root=tmp_path / name))

        async def refresh(train, held_out, output):
            output.mkdir(parents=True)
            learned.append((output.name, [(p.problem_id, p.generated) for p in train], len(held_out)))
            return SimpleNamespace(held_out=SimpleNamespace(accuracy=0.9, loss=0.1))

        made._refresh = refresh
        made.rewind(0)
        return made, learned

    def journal(last):
        return [(number, [group.entries for group in step_of(number)]) for number in range(1, last + 1)]

    by_id = {one.id: one for one in problems}
    through, expected = comparisons("through")
    for number in range(1, 7):
        await through.step(number, step_of(number))
    assert [name for name, *_ in expected] == ["step-000003", "step-000006"]
    for _, train, held_out in expected:  # the first problem's answer, three times the same, counts once
        assert held_out > 0
        assert len(train) + held_out == 39 * 3 + 1
    for number in range(7, 10):  # after the last step nothing is compared any more
        await through.step(number, step_of(number))
    assert len(expected) == 2

    stopped, learned = comparisons("stopped")
    for number in range(1, 6):
        await stopped.step(number, step_of(number))
    stopped.rewind(5)
    await stopped.recall(journal(5), by_id)
    await stopped.step(6, step_of(6))
    assert learned == expected

    prevented, learned = comparisons("prevented")
    for number in (1, 2):
        await prevented.step(number, step_of(number))
    prevented.rewind(3)  # a checkpoint of step 3, whose refresh was not made
    await prevented.recall(journal(3), by_id)
    assert prevented._model.name == "step-000003"
    for number in (4, 5, 6):
        await prevented.step(number, step_of(number))
    assert learned == expected


def test_an_evaluation_of_its_own_has_room_for_prompt_and_answer_and_the_languages_asked_for(tmp_path):
    spec = {"spec": "synthetic:split=test,count=2,depth=2-3,seed=12,language=java"}
    stage = {"model": str(tmp_path), "problems": [spec], "samples": 1, "greedy": False}
    sampling = {"max_new_tokens": 100, "max_prompt_tokens": 50}
    config = evaluation_of({**stage, "sampling": sampling}, ["folder=/x", "generators.engine.dtype=float32"])
    assert config.generators.engine.max_model_len == 150
    assert config.generators.engine.dtype == "float32"
    assert config.executors.sandbox.languages == ("java",)
    same = evaluation_of({**stage, "sampling": sampling}, [])
    assert config.name == same.name != evaluation_of({**stage, "samples": 2, "sampling": sampling}, []).name
