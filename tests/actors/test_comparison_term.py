"""Comparisons with a reference: who is asked, about what, and what is paid; and the judge's two orders."""

import asyncio
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from actors.comparison import ComparisonTermConfig, JudgeTermConfig, TooLong
from actors.compiler import CompilerTermConfig
from actors.config import GeneratorConfig
from actors.judging import Judge, answer_tokens, preference
from actors.rewards import TermSources, build_terms
from actors.terms import Failed
from learner.trajectory import FinishReason, RewardEvent
from problems.problem import CompletionStyle
from sandbox.verdict import Diagnostic, Outcome, Verdict
from tests.actors.compiled_answers import attempt, problem, run

REFERENCE = "    n = a + 1\n    n = n * a\n    return n\n"
OF = problem("python", reference_completions=(REFERENCE,))


class Asked:
    """Compares by length, and remembers what it was asked. A program with ``bad`` in it does not compile."""

    def __init__(self, answer=None) -> None:
        self.questions: list[tuple[str, str, str]] = []
        self._answer = answer

    async def compare(self, prompt, first, second):
        self.questions.append((prompt, first, second))
        return math.tanh(len(first) - len(second)) if self._answer is None else self._answer

    async def check(self, program):
        bad = b"bad" in program.source
        found = (Diagnostic("SyntaxError", "bad", 1, 1),) if bad else ()
        return Verdict(Outcome.COMPILE_ERROR if bad else Outcome.PASSED, 1, diagnostics=found)


def events(asked: Asked, text: str, of=OF, finish=FinishReason.STOP, **fields):
    config = ComparisonTermConfig(model="stage:d", **fields)
    (term,) = build_terms([config], TermSources(check=asked.check, compare=asked.compare))
    (found,) = run(term.score([attempt(of, [text.encode()], finish=finish)]))
    return found


def test_what_compiles_is_compared_with_the_reference_and_paid_on_the_last_token():
    asked = Asked(0.25)
    assert events(asked, "    return a + a * a  \n\n", weight=2.0) == (RewardEvent("comparison.compared", 0.5),)
    assert asked.questions == [("def f(a):\n", "    return a + a * a\n", REFERENCE)]


def test_how_lines_end_tells_a_model_that_compares_nothing():
    asked = Asked(0.25)
    foreign = replace(OF, reference_completions=(REFERENCE.replace("\n", " \r\n"),))
    events(asked, "    return a + a * a\t\r\n", foreign)
    assert asked.questions == [("def f(a):\n", "    return a + a * a\n", REFERENCE)]


@pytest.mark.parametrize(
    ("text", "of", "what"),
    [
        ("    bad = a + 1\n    return bad\n", OF, "not_compiling"),
        ("    # nothing\n", OF, "not_compiling"),
        ("    return 0\n", OF, "not_compiling"),
        ("    n = a + 2\n    return n * a\n", replace(OF, reference_completions=()), "no_reference"),
        ("    n = a + 2\n    return n * a\n", replace(OF, reference_completions=("    bad(\n",)), "bad_reference"),
        (REFERENCE + "  \n", OF, "same"),
    ],
)
def test_what_is_not_compared_is_counted_and_paid_nothing(text, of, what):
    asked = Asked()
    assert events(asked, text, of) == (RewardEvent(f"comparison.{what}", 0.0),)
    assert asked.questions == []


def test_what_does_not_compile_is_compared_where_the_recipe_says_so():
    asked = Asked(-0.5)
    found = events(asked, "    bad = a + 1\n    return bad\n", compiling_only=False)
    assert found == (RewardEvent("comparison.compared", -0.5),)


def test_too_long_is_counted_a_fault_is_no_reward_and_a_cut_program_is_not_compared():
    assert events(Asked(TooLong()), "    return a + a\n") == (RewardEvent("comparison.too_long", 0.0),)
    assert events(Asked(Failed("comparer-0 died")), "    return a + a\n") == Failed("comparer-0 died")
    assert events(Asked(), "    return a + a\n", finish=FinishReason.LENGTH) == ()


def test_who_writes_too_much_to_be_compared_is_paid_as_the_worst_unless_the_reference_is_too_long_itself():
    class Short(Asked):
        async def compare(self, _prompt, first, second):
            return TooLong() if first != second else 0.0

    assert events(Short(), "    return a + a\n", weight=0.5) == (RewardEvent("comparison.too_long", -0.5),)
    assert events(Asked(TooLong()), "    return a + a\n", weight=0.5) == (RewardEvent("comparison.too_long", 0.0),)


def test_a_fault_of_ours_while_the_reference_is_measured_is_no_reward_either():
    class Dies(Asked):
        async def compare(self, _prompt, first, second):
            return TooLong() if first != second else Failed("comparer-0 died")

    assert events(Dies(), "    return a + a\n") == Failed("comparer-0 died")


def test_both_terms_share_the_compilers_rules_and_never_both_pay():
    asked = Asked(0.5)
    terms = build_terms(
        [CompilerTermConfig(trivial_share=0.9), ComparisonTermConfig(model="stage:d")],
        TermSources(check=asked.check, compare=asked.compare),
    )
    short = attempt(OF, [b"    return a + a\n"])
    assert [run(term.score([short])) for term in terms] == [
        [(RewardEvent("compiler.trivial", -1.0),)],
        [(RewardEvent("comparison.not_compiling", 0.0),)],
    ]


def test_a_whole_program_is_compared_with_the_whole_reference():
    of = problem("python", CompletionStyle.PROGRAM, references=("def f(a):\n    return a * 2\n",))
    asked = Asked(0.5)
    events(asked, "```python\ndef f(a):\n    return a + a\n```", of)
    assert asked.questions == [("def f(a):\n", "def f(a):\n    return a + a\n", "def f(a):\n    return a * 2\n")]


def test_a_preference_from_both_orders_by_hand():
    assert preference(0.9, 0.2) == pytest.approx(0.7)  # P("A") of y first 0.9, of y second 0.2: 0.9 + 0.8 - 1
    assert preference(0.2, 0.9) == pytest.approx(-0.7)  # the programs exchanged
    assert preference(0.8, 0.8) == pytest.approx(0.0)  # always "A": nothing said


class Words:
    """A tokenizer of words."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [self.ids.setdefault(word, len(self.ids)) for word in text.replace("\n", " \n ").split(" ") if word]


class LikesLong:
    """An engine that prefers the program with more words, and the answer "A" besides."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.requests = []

    async def sample(self, request):
        self.requests.append(request)
        words = {number: word for word, number in self.judge._tokenizer.ids.items()}
        text = " ".join(words[number] for number in request.prompt_ids)
        first, second = text.split("<1>")[1].split("<2>")
        chance = 1 / (1 + math.exp(-(len(first.split()) - len(second.split()) + 1)))
        picks_first = request.seed % 2 == 0
        logprob = math.log(chance if picks_first else 1 - chance)
        return SimpleNamespace(token_ids=[request.allowed_token_ids[not picks_first]], logprobs=[logprob])


def judge(**fields) -> tuple[Judge, LikesLong]:
    made = Judge.__new__(Judge)
    made._config = JudgeTermConfig(model="m", question="{prompt} <1> {first} <2> {second}", answers=("A", "B"))
    made._engine_config = GeneratorConfig(**{"max_model_len": 64, **fields})
    made._tokenizer = Words()
    made._answers = answer_tokens(made._tokenizer, made._config.answers)
    made._starting, made._numbers = asyncio.Lock(), iter(range(100))
    engine = LikesLong(made)
    made._engine = engine
    return made, engine


def test_the_judge_is_asked_in_both_orders_and_its_liking_for_a_place_cancels():
    made, engine = judge()
    (forth,) = run(made.score([("x", "a b c", "a b")]))
    (back,) = run(made.score([("x", "a b", "a b c")]))
    (same,) = run(made.score([("x", "a b", "b a")]))
    sigmoid = [1 / (1 + math.exp(-difference)) for difference in (2, 0)]
    assert forth == pytest.approx(sigmoid[0] + (1 - sigmoid[1]) - 1)
    assert back == pytest.approx(-forth)
    assert same == pytest.approx(0.0)
    assert {request.allowed_token_ids for request in engine.requests} == {made._answers}
    assert {request.max_tokens for request in engine.requests} == {1}
    assert engine.requests[0].prompt_ids != engine.requests[1].prompt_ids


def test_a_question_that_is_too_long_is_not_asked():
    made, engine = judge(max_model_len=8)
    assert run(made.score([("x", "a b c", "a b")])) == [TooLong()]
    assert engine.requests == []


def test_answers_must_be_two_different_tokens_and_the_question_must_show_everything():
    with pytest.raises(ValueError, match="not two different tokens"):
        answer_tokens(Words(), ("A", "A"))
    with pytest.raises(ValueError, match="not two different tokens"):
        answer_tokens(Words(), ("A", "program B"))
    with pytest.raises(ValueError, match="must hold"):
        JudgeTermConfig(model="m", question="{first} or {second}?")
