"""The compiler's reward term on real compilers: which tokens get the -1, and what is not the model's fault."""

from collections.abc import Iterator

import numpy as np
import pytest

from actors.blame import spread
from actors.compiler import CompilerTerm, CompilerTermConfig
from actors.rewards import TermSources, build_terms
from actors.terms import Failed
from learner.rewards import event_rewards, raw_reward
from learner.trajectory import FinishReason, RewardEvent
from problems.problem import CompletionStyle, FunctionSuite
from problems.prompting import PromptStyle, TokenBytes, render_prompt
from sandbox.diagnosis import ErrorClass
from sandbox.verdict import Diagnostic, Outcome, Verdict
from tests.actors.compiled_answers import JAVA_HEAD, TAIL, Compilers, attempt, never, problem, run
from tests.sandbox.local_java import HAS_JDK, LocalCompiler

pytestmark = pytest.mark.skipif(not HAS_JDK, reason="no JDK on this machine")

# One program of each class of error: what follows the head of a method ``static int f(int a)``, and the text to blame.
JAVA = {
    ErrorClass.SYNTAX: ("        int n = a\n        return n;\n", "\n", 17),
    ErrorClass.UNRESOLVED_SYMBOL: ("        return missing + a;\n", "missing", 15),
    ErrorClass.TYPE_MISMATCH: ('        int n = a;\n        return "text";\n', '"text"', 34),
    ErrorClass.MISSING_RETURN: ("        if (a > 0) { return 1; }\n", "}", 37),
    ErrorClass.UNREACHABLE: ("        return a;\n        a = 2;\n", "a = 2;", 26),
    ErrorClass.UNINITIALISED: ("        int n;\n        return n;\n", "n", 30),
    ErrorClass.DUPLICATE_DECLARATION: ("        int a = 1;\n        return a;\n", "int a = 1;", 8),
    ErrorClass.ARITY: ("        return Math.max(a);\n", "Math.max", 15),
    ErrorClass.UNHANDLED_EXCEPTION: ("        throw new Exception();\n", "throw new Exception();", 8),
    ErrorClass.ACCESS: ("        return new Random().seed;\n", "new Random().seed", 15),
}


@pytest.fixture(scope="module")
def compilers() -> Iterator[Compilers]:
    compiler = LocalCompiler()
    yield Compilers(compiler)
    compiler.close()


def scored(compilers: Compilers, of, pieces, *, prompt_ids=None, **fields) -> tuple[RewardEvent, ...]:
    config = CompilerTermConfig(**fields)
    tried = attempt(of, pieces, prompt_ids=prompt_ids)
    (events,) = run(CompilerTerm(config, config.checker(compilers.check)).score([tried]))
    return events


def byte_pieces(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def blamed(events: tuple[RewardEvent, ...]) -> list[tuple[int | None, float]]:
    return [(event.token, event.value) for event in events if event.value]


def names(events: tuple[RewardEvent, ...]) -> set[str]:
    return {event.term for event in events}


@pytest.mark.parametrize("kind", JAVA)
@pytest.mark.parametrize("shape", ["continue", "block", "bare"])
def test_the_tokens_of_each_class_of_java_error_share_minus_one(compilers, kind, shape):
    body, text, place = JAVA[kind]
    program = JAVA_HEAD + body + TAIL
    if shape == "continue":
        of, completion, shift = problem(), body + TAIL, 0
    else:
        of = problem(style=CompletionStyle.PROGRAM)
        before, after = ("Sure, here it is:\n```java\n", "```\nIt does it.\n") if shape == "block" else ("", "")
        completion, shift = before + program + after, len(before) + len(JAVA_HEAD)
    events = scored(compilers, of, byte_pieces(completion))
    start = place + shift
    assert completion[start : start + len(text)] == text
    assert [token for token, _ in blamed(events)] == list(range(start, start + len(text)))
    assert {event.term for event in events if event.value} == {f"compiler.{kind.value}"}
    assert [value for _, value in blamed(events)] == pytest.approx([-1 / len(text)] * len(text))
    assert sum(event.value for event in events) == -1.0


def test_a_token_is_blamed_for_any_of_its_bytes_and_the_learner_pays_there(compilers):
    # |        return| missing|;|\n|    }\n|}\n|<end>|
    pieces = [b"        return", b" mis", b"sing;", b"\n", b"    }\n", b"}\n"]
    events = scored(compilers, problem(), pieces)
    assert blamed(events) == [(1, -0.5), (2, -0.5)]
    paid = event_rewards(attempt(problem(), pieces).trajectory, events)
    assert paid.tolist() == [0.0, -0.5, -0.5, 0.0, 0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """One of a few merges, so that tokens straddle the borders of what is blamed; with a chat template."""
    from transformers import AutoTokenizer

    from problems.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [JAVA_HEAD + body + TAIL for body, *_ in JAVA.values()]
    save_tokenizer(train_tokenizer(texts * 5, 360), folder)
    made = AutoTokenizer.from_pretrained(folder)
    made.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}<assistant>"
    return made


# The pieces of the completion that get the -1, as that tokenizer cuts them.
PIECES = {
    ErrorClass.SYNTAX: ["\n"],
    ErrorClass.UNRESOLVED_SYMBOL: ["miss", "in", "g "],
    ErrorClass.TYPE_MISMATCH: ['"t', "ex", "t", '";'],
    ErrorClass.MISSING_RETURN: ["    }"],
    ErrorClass.UNREACHABLE: ["a = ", "2", ";"],
    ErrorClass.UNINITIALISED: ["        return n;"],
    ErrorClass.DUPLICATE_DECLARATION: ["int a", " = ", "1", ";"],
    ErrorClass.ARITY: ["Ma", "th", ".m", "ax"],
    ErrorClass.UNHANDLED_EXCEPTION: ["th", "row ", "new ", "Ex", "ce", "pti", "on()", ";"],
    ErrorClass.ACCESS: ["new ", "Ra", "ndo", "m()", ".s", "ee", "d;"],
}


@pytest.mark.parametrize("kind", JAVA)
def test_through_a_chat_template_and_a_code_block_each_class_falls_on_its_tokens(compilers, tokenizer, kind):
    of = problem(style=CompletionStyle.PROGRAM)
    prompt_ids = render_prompt("Write f.", PromptStyle("chat", (1,)), tokenizer)
    assert TokenBytes.of(tokenizer).decode(prompt_ids) == b"<user>Write f.</user><assistant>"
    body, text, place = JAVA[kind]
    before = f"Sure:\n```java\n{JAVA_HEAD}"
    ids = tokenizer.encode(f"{before}{body}{TAIL}```\nThat is it.\n", add_special_tokens=False)
    pieces = TokenBytes.of(tokenizer).pieces(ids)
    events = scored(compilers, of, pieces, prompt_ids=prompt_ids)
    tokens = [token for token, _ in blamed(events)]
    assert [pieces[token].decode() for token in tokens] == PIECES[kind]
    start = len(before) + place
    ends = np.cumsum([len(piece) for piece in pieces])
    overlapping = (ends > start) & (ends - [len(piece) for piece in pieces] < start + len(text))
    assert tokens == np.flatnonzero(overlapping).tolist()
    assert raw_reward(events) == -1.0
    paid = event_rewards(attempt(of, pieces, prompt_ids=prompt_ids).trajectory, events)
    assert np.flatnonzero(paid).tolist() == tokens
    assert sum(paid.tolist()) == -1.0


def test_on_the_last_token_where_it_is_not_localised(compilers):
    body, *_ = JAVA[ErrorClass.UNRESOLVED_SYMBOL]
    events = scored(compilers, problem(), byte_pieces(body + TAIL), localise=False)
    assert blamed(events) == [(None, -1.0)]


def test_shares_add_up_to_the_whole_to_the_last_bit_however_many_they_are():
    for total in (-1.0, -0.3):
        for sizes in [(count,) for count in range(1, 300)] + [(1, 7, 3), (300, 1), (1, 300), (11, 13, 17, 19)]:
            values = [value for _, value in spread(total, [range(size) for size in sizes])]
            assert sum(values) == total
            assert len(values) == sum(sizes)


def test_all_messages_share_equally_where_all_are_blamed(compilers):
    pieces = [b"        int n = ", b"x1", b" + ", b"y1", b";\n        return n;\n", TAIL.encode()]
    first = scored(compilers, problem(), pieces)
    assert blamed(first) == [(1, -1.0)]
    both = scored(compilers, problem(), pieces, errors="all", value=-0.5)
    assert blamed(both) == [(1, -0.25), (3, -0.25)]


def test_a_class_that_is_switched_off_is_forgiven_and_others_still_count(compilers):
    body, *_ = JAVA[ErrorClass.ACCESS]
    others = tuple(kind for kind in ErrorClass if kind is not ErrorClass.ACCESS)
    events = scored(compilers, problem(), byte_pieces(body + TAIL), classes=others)
    assert names(events) == {"compiler.compiles", "compiler.forgiven"}
    assert sum(event.value for event in events) == 0
    body, *_ = JAVA[ErrorClass.ARITY]
    assert blamed(scored(compilers, problem(), byte_pieces(body + TAIL), classes=others))


def test_a_sound_program_of_any_class_name_earns_nothing_and_is_counted(compilers):
    of = problem(style=CompletionStyle.PROGRAM)
    source = "public class Whatever {\n    public static int f(int a) { return a * 2; }\n}\n"
    assert scored(compilers, of, [b"```java\n", source.encode(), b"```\n"]) == (RewardEvent("compiler.compiles", 0.0),)


def test_missing_imports_of_the_standard_library_are_no_fault_of_the_model(compilers):
    of = problem(style=CompletionStyle.PROGRAM)
    source = "class Solution {\n    static List<Integer> f(int a) {\n        return List.of(a + 1);\n    }\n}\n"
    events = scored(compilers, of, byte_pieces(source))
    assert names(events) == {"compiler.compiles", "compiler.imports_supplied", "compiler.no_block"}
    blamed_for = scored(compilers, of, byte_pieces(source), supply_imports=False)
    start = source.index("List<")
    assert [token for token, _ in blamed(blamed_for)] == list(range(start, start + 4))


def test_with_imports_supplied_other_errors_stay_where_they_are(compilers):
    of = problem(style=CompletionStyle.PROGRAM)
    source = "package a.b;\nclass S {\n    static List<Integer> f(int a) { return a; }\n}\n"
    events = scored(compilers, of, byte_pieces(source))
    start = source.index("a; }")
    assert blamed(events) == [(start, -1.0)]
    assert {"compiler.type_mismatch", "compiler.imports_supplied"} <= names(events)


def test_a_name_that_no_import_gives_is_still_unknown(compilers):
    of = problem(style=CompletionStyle.PROGRAM)
    source = "class S { Fnord f; List<Integer> g; }\n"
    events = scored(compilers, of, byte_pieces(source))
    start = source.index("Fnord")
    assert [token for token, _ in blamed(events)] == list(range(start, start + 5))


@pytest.mark.parametrize("text", ["", "\n  \n", "// nothing\n/* at all */", "/** open"])
@pytest.mark.parametrize("style", CompletionStyle)
def test_no_code_is_refused_whatever_a_compiler_would_say(text, style):
    config = CompilerTermConfig()
    term = CompilerTerm(config, config.checker(never()))
    (events,) = run(term.score([attempt(problem(style=style), byte_pieces(text))]))
    assert blamed(events) == [(None, -1.0)]
    assert "compiler.empty" in names(events)


def test_comments_alone_are_no_python_program_though_they_compile(compilers):
    of = problem("python", prompt='def f(a):\n    """Doubles."""\n')
    events = scored(compilers, of, [b"    # later\n", b'    """or never"""\n'])
    assert events == (RewardEvent("compiler.empty", -1.0),)


@pytest.mark.parametrize(
    "body",
    [
        "        return 0;\n",
        "        return a;\n",
        "        throw new IllegalStateException();\n",
        "        while (true) {}\n",
    ],
)
def test_a_program_that_only_compiles_is_trivial(compilers, body):
    reference = "        int n = 0;\n        for (int i = 0; i < a; i++) {\n            n += i * a;\n        }\n"
    reference += "        return n;\n"
    of = problem(reference_completions=(reference + TAIL,))
    assert scored(compilers, of, byte_pieces(body + TAIL)) == (RewardEvent("compiler.trivial", -1.0),)
    assert "compiler.compiles" in names(scored(compilers, of, byte_pieces(reference + TAIL)))


async def always_compiles(_):
    return Verdict(Outcome.PASSED, 1)


@pytest.mark.parametrize(
    ("language", "text", "what"),
    [
        ("python", "def f(x):\n    return 0\n", "trivial"),
        ("python", 'class A:\n    def f(self, x: int = 3) -> int:\n        "Adds."\n        ...\n', "trivial"),
        ("python", "def f(x):\n    pass\n", "trivial"),
        ("python", "def f(x):\n    return x + 1\n", "compiles"),
        ("java", "import java.util.*;\npublic class A { public static int f(int a) { return 0; } }", "trivial"),
        ("java", "class A { void f() { } }", "trivial"),
        ("java", "class A { int f(int a) { throw new RuntimeException(); } }", "trivial"),
        ("java", "class A { int f(int a) { int b = a + 1; return b; } }", "compiles"),
        ("java", "class A { int[] f(int a) { return new int[0]; } }", "trivial"),
        ("java", "class A { int[] f(int a) { return new int[] {1, 2}; } }", "trivial"),
        ("java", "class A { int[] f(int a) { return new int[] {a}; } }", "compiles"),
        ("java", "class A { int f(int a) { return 0; \\u002f* b = a + 1; c = b; \\uu002a/ } }", "trivial"),
        ("java", 'class A { String f(int a) { return "\\\\u002f*" + a; } }', "compiles"),
    ],
)
def test_a_whole_program_is_trivial_by_what_its_methods_do(language, text, what):
    config, of = CompilerTermConfig(), problem(language, CompletionStyle.PROGRAM)
    tried = attempt(of, [f"```{language}\n{text}\n```".encode()])
    (events,) = run(CompilerTerm(config, config.checker(always_compiles)).score([tried]))
    assert f"compiler.{what}" in names(events)


def test_what_only_closes_a_method_is_no_program():
    config = CompilerTermConfig()
    tried = attempt(problem(), [b"    }\n}\n"])
    (events,) = run(CompilerTerm(config, config.checker(always_compiles)).score([tried]))
    assert "compiler.trivial" in names(events)


def test_a_short_program_is_not_trivial_where_the_reference_is_as_short(compilers):
    of = problem(reference_completions=("        return a;\n" + TAIL,))
    assert "compiler.compiles" in names(scored(compilers, of, byte_pieces("        return a;\n" + TAIL)))
    without = problem()
    assert "compiler.trivial" in names(scored(compilers, without, byte_pieces("        return -1;\n" + TAIL)))
    assert "compiler.compiles" in names(scored(compilers, without, byte_pieces("        return a - 1;\n" + TAIL)))


def test_what_the_prompt_got_wrong_falls_on_the_last_token_and_is_counted(compilers):
    of = problem(prompt="class Solution {\n    static Fnord f(int a) {\n")
    events = scored(compilers, of, byte_pieces("        return null + a;\n" + TAIL))
    assert blamed(events) == [(None, -1.0)]
    assert "compiler.outside" in names(events)


def test_a_program_that_stops_too_early_is_the_last_tokens_fault(compilers):
    events = scored(compilers, problem(), [b"        return a;", b"\n", b"    }\n"])
    assert blamed(events) == [(None, -1.0)]
    assert "compiler.outside" not in names(events)


def test_a_block_that_is_closed_too_early_is_the_fault_of_what_closed_it(compilers):
    """And not of the prose behind it, nor of the end of the sequence."""
    of = problem(style=CompletionStyle.PROGRAM)
    pieces = [b"```java\n", b"class A { int f(int a) { return a; }", b"\n", b"```", b"\nIt adds.", b" Does it not?"]
    events = scored(compilers, of, pieces)
    assert blamed(events) == [(3, -1.0)]
    assert "compiler.outside" not in names(events)


def test_the_block_that_is_taken_and_how_many_there_are(compilers):
    of = problem(style=CompletionStyle.PROGRAM)
    good = b"```java\nclass A { int f(int a) { return a + 1; } }\n```\n"
    several = scored(compilers, of, [b"```java\nclass A {\n```\n", b"or:\n", good])
    assert names(several) == {"compiler.compiles", "compiler.several_blocks"}
    foreign = scored(compilers, of, [good.replace(b"```java", b"```python")])
    assert names(foreign) == {"compiler.compiles", "compiler.foreign_block"}
    missing = scored(compilers, of, [b"It is easy: add one.\n"])
    assert {"compiler.syntax", "compiler.no_block"} <= names(missing)


def test_a_language_without_a_compiler_is_counted_and_paid_nothing():
    config = CompilerTermConfig()
    (events,) = run(CompilerTerm(config, config.checker(never())).score([attempt(problem("cobol"), [b"STOP RUN."])]))
    assert events == (RewardEvent("compiler.no_compiler", 0.0),)


def test_a_completion_that_was_cut_is_not_compiled_and_a_fault_of_ours_is_no_reward():
    async def broken(_):
        return Verdict(Outcome.INFRASTRUCTURE_ERROR, 1, detail="no slot")

    (term,) = build_terms([CompilerTermConfig()], TermSources(check=broken))
    cut = attempt(problem(), [b"return"], finish=FinishReason.LENGTH)
    assert run(term.score([cut])) == [()]
    assert run(term.score([attempt(problem(), [b"return"])])) == [Failed("compiler: no slot")]


def test_a_compiler_that_gives_up_is_the_programs_fault():
    async def limited(_):
        return Verdict(Outcome.COMPILE_ERROR, 1, diagnostics=(Diagnostic("CompilerTimeLimit", "too much"),))

    (term,) = build_terms([CompilerTermConfig()], TermSources(check=limited))
    ((paid, note),) = run(term.score([attempt(problem(), [b"return a;"])]))
    assert paid == RewardEvent("compiler.compiler_limit", -1.0)
    assert note == RewardEvent("compiler.outside", 0.0)


def test_a_program_that_ends_its_compilers_is_none_that_compiles():
    async def ended(_):
        return Verdict(Outcome.RUNTIME_ERROR, 1, signs=("slot-died",), detail="two slots died")

    for language in ("java", "python"):
        config = CompilerTermConfig()
        ((paid, *_),) = run(
            CompilerTerm(config, config.checker(ended)).score([attempt(problem(language), [b"return a;"])])
        )
        assert paid == RewardEvent("compiler.compiler_limit", -1.0)


PYTHON = {
    ErrorClass.SYNTAX: ("    n = (a\n    return n\n", "(", 8),
    ErrorClass.UNRESOLVED_SYMBOL: ("    n = a\n    return missing + n\n", "missing", 21),
    ErrorClass.ARITY: ("    n = '%s %s' % (a,)\n    return n\n", "'%s %s'", 8),
}


@pytest.mark.parametrize("kind", PYTHON)
def test_the_tokens_of_python_errors_share_minus_one(compilers, kind):
    body, text, place = PYTHON[kind]
    events = scored(compilers, problem("python"), byte_pieces(body))
    assert body[place : place + len(text)] == text
    assert [token for token, _ in blamed(events)] == list(range(place, place + len(text)))
    assert {event.term for event in events if event.value} == {f"compiler.{kind.value}"}
    assert sum(event.value for event in events) == -1.0


def test_python_columns_count_bytes_behind_characters_of_several(compilers):
    body = "    s = 'äö€'; t = )\n"
    events = scored(compilers, problem("python"), byte_pieces(body))
    assert [token for token, _ in blamed(events)] == [body.encode().index(b")")]


def test_a_name_that_only_happens_to_be_a_module_s_is_not_forgiven(compilers):
    of = problem("python")
    for name, member in (("string", "capwords"), ("array", "array"), ("copy", "copy")):
        assert "compiler.unresolved_symbol" in names(scored(compilers, of, [f"    return {name} + a\n".encode()]))
        used = scored(compilers, of, [f"    return len({name} .{member}(a))\n".encode()])
        assert names(used) == {"compiler.compiles", "compiler.imports_supplied"}
        not_there = scored(compilers, of, [f"    return len({name}.append(a))\n".encode()])
        assert "compiler.unresolved_symbol" in names(not_there)


def test_python_names_that_the_harness_or_an_import_gives_are_forgiven(compilers):
    suite = FunctionSuite(("f",), "", ("assert f(1)",), "import numpy as np\ndef helper(): pass\n")
    of = problem("python")
    of = type(of)(of.id, of.language, of.prompt, of.completion_style, {"main": suite})
    body = b"    return math.sqrt(a) + np.sum(a) + helper()\n"
    assert names(scored(compilers, of, [body])) == {"compiler.compiles", "compiler.imports_supplied"}
    assert blamed(scored(compilers, of, [body], supply_imports=False))
