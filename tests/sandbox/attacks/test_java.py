"""Attacks by Java programs, each run twice in one warm slot with an honest program between."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from problems.java import JavaSuite, read_method
from problems.problem import Limits
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.errors import ImageMissingError
from sandbox.java.pool import JavaPool
from sandbox.polyglot import Polyglot

from ..conftest import BACKENDS, open_backend
from .conftest import COMPILE, ERROR, MEMORY, OUTPUT, TIME, WRONG, processes_in

LIMITS = Limits(cpu_s=4.0, wall_s=12.0, memory_bytes=256 << 20)
_MAIN = """class Main {
    static final String SECRET = "%s";
    static void check(boolean holds) { if (!holds) { throw new RuntimeException("a check fails"); } }
    public static void main(String[] args) throws Exception { %s }
}
"""
INT = "static int f(int a)"
OBJECT = "static Object f(Object a)"
HONEST = Program("java", b"class C { static int f(int a) { return a + 1; } }")
# What a value of any type is compared with; an honest ``return a`` would pass.
ECHO = 'check(C.f("x").equals("x")); check(C.f(SECRET).equals(SECRET)); check(new Object().equals(C.f("x")) == false);'
COUNT = "check(C.f(1) == 2); check(C.f(41) == 42);"

Attack = Callable[..., list[Verdict]]


@pytest.fixture(scope="module", params=BACKENDS)
def attacked(request: pytest.FixtureRequest) -> Iterator[BlockingExecutor]:
    """An executor for Java with one slot."""
    try:
        with open_backend(request.param, slots=1, languages=("java",)) as opened:
            yield opened
    except ImageMissingError as error:
        if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
            raise
        pytest.skip(str(error))


def _suite(head: str, body: str) -> JavaSuite:
    method = read_method(f"class C {{ {head} {{ }} }}", "f")
    return JavaSuite((method,), _MAIN % (f"SECRET{secrets.token_hex(16)}", body), "import java.util.*;\n")


def _left_over(executor: BlockingExecutor) -> int:
    polyglot = executor._executor
    assert isinstance(polyglot, Polyglot)
    pool = polyglot.pools["java"]
    assert isinstance(pool, JavaPool)
    (slot,) = pool._slots
    return processes_in(slot)


@pytest.fixture
def attack(attacked: BlockingExecutor) -> Attack:
    """Runs a program twice with an honest one between; gives both verdicts."""

    def run(
        source: str, head: str = INT, body: str = "", *, expect: Iterable[Outcome] | Outcome, limits: Limits = LIMITS
    ) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for _ in range(2):
            suite = _suite(head, body or (COUNT if head == INT else ECHO))
            verdict = attacked.run(Program("java", source.encode()), suite, limits)
            assert verdict.outcome in ({expect} if isinstance(expect, Outcome) else set(expect)), verdict
            verdicts.append(verdict)
            honest = attacked.run(HONEST, _suite(INT, COUNT), Limits(wall_s=120.0))
            assert honest.passed, (honest, verdict)
            assert _left_over(attacked) == 0, verdict
        return verdicts

    return run


def in_class(body: str, head: str = INT, more: str = "") -> str:
    return f"import java.io.*; import java.util.*; class C {{ {more} {head} {{ {body} }} }}"


def at_start(body: str) -> str:
    """A program that does it before it is asked anything, and is wrong."""
    return in_class("return 0;", more=f"static {{ try {{ {body} }} catch (Throwable e) {{ }} }}")


EXITS = ["System.exit(0);", "Runtime.getRuntime().halt(0);", "System.exit(1);"]


@pytest.mark.parametrize("how", EXITS)
def test_an_exit_at_the_start(attack: Attack, how: str) -> None:
    for verdict in attack(at_start(how), expect=ERROR):
        assert "exit-at-import" in verdict.signs


@pytest.mark.parametrize("how", EXITS)
def test_an_exit_in_the_call(attack: Attack, how: str) -> None:
    attack(in_class(f"{how} return 0;"), expect=ERROR)


def test_an_exit_after_the_first_right_answer(attack: Attack) -> None:
    attack(in_class("if (a > 1) Runtime.getRuntime().halt(0); return a + 1;"), expect=ERROR)


def test_a_hook_that_does_not_let_the_exit_end(attack: Attack) -> None:
    hook = "Runtime.getRuntime().addShutdownHook(new Thread(() -> { while (true) { } })); System.exit(0);"
    attack(in_class(f"{hook} return 0;"), expect=TIME)


def test_a_hook_that_answers_after_the_exit(attack: Attack) -> None:
    forge = (
        "try { new FileOutputStream(FileDescriptor.in).write(new byte[] {0, 0, 0, 1, 'R'}); } catch (Exception e) { }"
    )
    hook = f"Runtime.getRuntime().addShutdownHook(new Thread(() -> {{ {forge} }})); System.exit(0);"
    attack(in_class(f"{hook} return 0;"), expect=ERROR)


ALL_EQUAL = "public boolean equals(Object o) { return true; } public int hashCode() { return 0; }"


@pytest.mark.parametrize(
    "value",
    [
        f"new Object() {{ {ALL_EQUAL} }}",
        f"new ArrayList<Object>() {{ {ALL_EQUAL} public int size() {{ return 1; }} }}",
        f"new HashMap<Object, Object>() {{ {ALL_EQUAL} }}",
        f"new AbstractList<Object>() {{ {ALL_EQUAL} public int size() {{ return 1; }}"
        ' public Object get(int i) { return "x"; } }',
        f"new Number() {{ {ALL_EQUAL} public int intValue() {{ return 0; }} public long longValue() {{ return 0; }}"
        " public float floatValue() { return 0; } public double doubleValue() { return 0; } }",
        "new Object[] {a}",
        "Optional.of(a)",
        "new Thread()",
        "Main.class",
        "null",
        "(CharSequence) new StringBuilder().append(a)",
    ],
)
def test_an_object_that_is_equal_to_everything_equals_nothing(attack: Attack, value: str) -> None:
    attack(in_class(f"return {value};", OBJECT) + " class Main { }", OBJECT, expect=WRONG)


def test_a_list_that_never_ends(attack: Attack) -> None:
    endless = (
        "new AbstractList<Object>() { public int size() { return Integer.MAX_VALUE; }"
        " public Object get(int i) { return 1L; } }"
    )
    attack(in_class(f"return {endless};", OBJECT), OBJECT, expect={OUTPUT, MEMORY, TIME})


def test_a_list_that_holds_itself(attack: Attack) -> None:
    attack(
        in_class("List<Object> b = new ArrayList<>(); b.add(b); return b;", OBJECT),
        OBJECT,
        expect={ERROR, OUTPUT, WRONG},
    )


def test_the_judges_classes_are_of_no_use_here(attack: Attack) -> None:
    attack(at_start("crucible.Judge.main(new String[0]);"), expect=COMPILE)
    call = 'Class.forName("crucible.Judge").getMethod("main", String[].class).invoke(null, (Object) new String[0]);'
    attack(at_start(call), expect={WRONG, ERROR, COMPILE})


@pytest.mark.parametrize("name", ["Main", "CrucibleLink", "crucible.Stub", "crucible.Candidate"])
def test_a_look_at_the_tests_by_reflection(attack: Attack, name: str) -> None:
    look = f"""try {{
            Class<?> kind = Class.forName("{name}");
            for (var field : kind.getDeclaredFields()) {{
                field.setAccessible(true);
                Object value = field.get(null);
                if (value instanceof String && ((String) value).startsWith("SECRET")) return value;
            }}
            kind.getDeclaredMethod("main", String[].class).invoke(null, (Object) null);
        }} catch (Throwable e) {{ }}
        return null;"""
    suite = ("static Object f()", "check(SECRET.equals(C.f()));")
    attack(in_class(look, "static Object f()"), *suite, expect={WRONG, COMPILE})


def test_a_walk_through_frames_and_threads(attack: Attack) -> None:
    look = """for (var stack : Thread.getAllStackTraces().values())
            for (var frame : stack)
                if (frame.getClassName().equals("Main")) return 1;
        return StackWalker.getInstance().walk(s -> s.anyMatch(f -> f.getClassName().equals("Main"))) ? 1 : 0;"""
    attack(in_class(look, "static int f()"), "static int f()", "check(C.f() == 1);", expect=WRONG)


def test_a_search_for_the_tests_on_disk_and_in_memory(attack: Attack) -> None:
    search = """static String found;
        static void look(File place, int depth) {
            File[] inside = place.listFiles();
            if (inside == null || depth > 4 || place.getPath().startsWith("/usr/lib")) return;
            for (File one : inside) {
                if (one.isDirectory()) { look(one, depth + 1); continue; }
                try (InputStream in = new FileInputStream(one)) {
                    String text = new String(in.readNBytes(1 << 20), "ISO-8859-1");
                    int at = text.indexOf("SECRET");
                    if (at >= 0 && at + 38 <= text.length()) found = text.substring(at, at + 38);
                } catch (Throwable e) { }
            }
        }"""
    body = 'look(new File("/"), 0); look(new File("."), 0); return found;'
    suite = ("static Object f()", "check(SECRET.equals(C.f()));")
    attack(in_class(body, "static Object f()", search), *suite, expect={WRONG, TIME})


def test_frames_in_advance(attack: Attack) -> None:
    write = "new FileOutputStream(FileDescriptor.in).write(new byte[] {0, 0, 0, 1, 'L', 0, 0, 0, 1, 'L'});"
    for verdict in attack(at_start(write), expect=ERROR):
        assert {"early-frame", "forged-frame"} & set(verdict.signs), verdict


def test_a_thread_that_writes_frames_all_the_time(attack: Attack) -> None:
    write = """new Thread(() -> { try { while (true) new FileOutputStream(FileDescriptor.in).write(new byte[] {
        0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0, 'R', 'I', 0, 0, 0, 2}); } catch (Exception e) { } }).start();"""
    attack(at_start(write), expect={ERROR, OUTPUT})


# Reads the judge's request itself and answers what it likes, with the right number: the answer to ``f(1)``.
PUPPET = """static {
        try {
            FileOutputStream out = new FileOutputStream(FileDescriptor.in);
            DataInputStream in = new DataInputStream(new FileInputStream(FileDescriptor.in));
            out.write(new byte[] {0, 0, 0, 1, 'L'});
            while (true) {
                byte[] asked = new byte[in.readInt()];
                in.readFully(asked);
                ByteArrayOutputStream answer = new ByteArrayOutputStream();
                DataOutputStream to = new DataOutputStream(answer);
                to.write(asked, 0, 8);
                %s
                new DataOutputStream(out).writeInt(answer.size());
                out.write(answer.toByteArray());
            }
        } catch (Throwable e) { }
    }"""


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "to.write('R');",
        "to.write('?');",
        "to.write('R'); to.write('I');",
        "to.write('R'); to.write('J'); to.writeLong(2);",
        "to.write('R'); to.write('N');",
        "to.write('R'); to.write('Z'); to.write(7);",
        "to.write('R'); to.write('I'); to.writeInt(2); to.writeInt(0); to.write('I'); to.writeInt(1);",
        "to.write('R'); to.write('I'); to.writeInt(2); to.writeInt(99); to.write('N');",
        "to.write('R'); to.write('L'); to.write('a'); to.writeInt(-1);",
        "to.write('R'); to.write('L'); to.write('a'); to.writeInt(1 << 30);",
        "to.write('R'); for (int i = 0; i < 100000; i++) { to.write('L'); to.write('a'); to.writeInt(1); }",
        "to.write('R'); to.write('L'); to.write('t'); to.writeInt(2); to.write('I'); to.writeInt(1);"
        " to.write('Z'); to.write(1);",
        "to.write('R'); to.write('M'); to.write('t'); to.writeInt(1); to.write('N'); to.write('N');",
        "to.write('R'); to.write('A'); String n = \"java.lang.ProcessBuilder\"; to.writeInt(n.length());"
        " to.writeChars(n); to.writeInt(0);",
        "to.write('R'); to.write('A'); to.writeInt(3); to.writeChars(\"int\"); to.writeInt(Integer.MAX_VALUE);",
        "to.write('R'); to.write('U'); to.writeInt(0);",
        "to.write('R'); to.write('G'); to.writeInt(0);",
        "to.write('R'); to.write('g'); to.writeInt(Integer.MIN_VALUE); to.writeInt(1); to.write(1);",
        "to.write('X'); to.writeInt(0); to.writeInt(0);",
        "to.write('X'); to.writeInt(1 << 20);",
        "to.write('X'); to.writeInt(1); String n = \"java.lang.ThreadDeath\"; to.writeInt(n.length());"
        " to.writeChars(n); to.writeInt(0);",
        "answer.reset(); to.writeLong(0); to.write('R'); to.write('I'); to.writeInt(2);",
        "out.write(new byte[] {0x7F, -1, -1, -1}); out.write(new byte[9]); Runtime.getRuntime().halt(0);",
        "out.write(new byte[] {0, 0}); Runtime.getRuntime().halt(0);",
        "boolean on = true; while (on) { }",
    ],
)
def test_a_puppet_that_speaks_the_protocol_itself(attack: Attack, answer: str) -> None:
    expect = TIME if "while (on)" in answer else {WRONG, ERROR, OUTPUT}
    attack(in_class("return 0;", more=PUPPET % answer), expect=expect)


@pytest.mark.parametrize(("log_keys", "expect"), [(11, WRONG), (14, TIME)])
def test_keys_that_all_fall_on_one_place(attack: Attack, log_keys: int, expect: Outcome) -> None:
    """As many as a program has the time to put there, which the judge has to put there too; and more."""
    body = f"""Map<Object, Object> b = new HashMap<>();
        for (int i = 0; i < 1 << {log_keys}; i++) {{
            List<Object> key = new ArrayList<>();
            for (int j = 0; j < 14; j++) key.add((i >> j & 1) == 0 ? List.of(0, 31) : List.of(1, 0));
            b.put(key, 1);
        }}
        return b;"""
    attack(in_class(body, OBJECT), OBJECT, expect=expect)


@pytest.mark.parametrize(
    ("body", "expect"),
    [
        ("return f(a) + 1;", ERROR),
        ("while (true) { }", TIME),
        ("try { while (true) Thread.sleep(1000); } catch (InterruptedException e) { return 0; }", TIME),
        ("synchronized (C.class) { try { C.class.wait(); } catch (Exception e) { } } return 0;", TIME),
        ("List<long[]> b = new ArrayList<>(); while (true) b.add(new long[1 << 16]);", MEMORY),
        ("while (true) { try { f(a); } catch (StackOverflowError e) { } }", TIME),
        ("while (true) { try { new Thread(() -> { while (true) { } }).start(); } catch (Throwable e) { } }", TIME),
        ('while (true) { try { Runtime.getRuntime().exec("/bin/sh"); } catch (Throwable e) { } }', TIME),
        ('String s = "x"; while (true) s += s;', MEMORY),
        ('while (true) System.err.print("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");', OUTPUT),
        ("throw new Error() { public String getMessage() { throw this; } };", ERROR),
        ("throw new ThreadDeath();", ERROR),
        ("throw null;", ERROR),
    ],
)
def test_what_uses_up_or_waits(attack: Attack, body: str, expect: Outcome) -> None:
    attack(in_class(body), expect=expect, limits=replace(LIMITS, wall_s=8.0))


def test_memory_outside_of_the_heap(attack: Attack) -> None:
    hoard = "List<Object> b = new ArrayList<>(); while (true) b.add(java.nio.ByteBuffer.allocateDirect(1 << 24));"
    attack(in_class(hoard), expect={MEMORY, ERROR})
    unsafe = """try {
            var field = Class.forName("sun.misc.Unsafe").getDeclaredField("theUnsafe");
            field.setAccessible(true);
            Object unsafe = field.get(null);
            var allocate = unsafe.getClass().getMethod("allocateMemory", long.class);
            var fill = unsafe.getClass().getMethod("setMemory", long.class, long.class, byte.class);
            while (true) fill.invoke(unsafe, allocate.invoke(unsafe, 1L << 24), 1L << 24, (byte) 1);
        } catch (Throwable e) { throw new RuntimeException(e); }"""
    attack(in_class(unsafe), expect={MEMORY, ERROR})


def test_a_crash_of_the_virtual_machine(attack: Attack) -> None:
    crash = """try {
            var field = Class.forName("sun.misc.Unsafe").getDeclaredField("theUnsafe");
            field.setAccessible(true);
            Object unsafe = field.get(null);
            unsafe.getClass().getMethod("putAddress", long.class, long.class).invoke(unsafe, 0L, 0L);
        } catch (Throwable e) { }
        return 0;"""
    attack(in_class(crash), expect=ERROR)


def test_threads_that_outlive_the_right_answers(attack: Attack) -> None:
    """In plain Java such a program never ends."""
    thread = "new Thread(() -> { try { Thread.sleep(1 << 30); } catch (Exception e) { } }).start();"
    attack(in_class(f"{thread} return a + 1;"), expect=TIME, limits=replace(LIMITS, wall_s=5.0))


def test_processes_that_outlive_the_program(attack: Attack) -> None:
    start = 'try { new ProcessBuilder("/bin/sleep", "1000").start(); } catch (Exception e) { }'
    attack(in_class(f"{start} return 0;"), expect=WRONG)


@pytest.mark.parametrize(
    "what",
    [
        'new java.net.Socket("127.0.0.1", 80)',
        "new java.net.ServerSocket(0)",
        'java.net.InetAddress.getByName("example.org")',
        "new java.net.DatagramSocket()",
        'Runtime.getRuntime().exec("/usr/bin/python3 -c print(1)").getInputStream().read() < 0 ? 1 : null',
        'new FileOutputStream("/usr/share/crucible/crucible.jar")',
    ],
)
def test_what_there_is_no_way_to(attack: Attack, what: str) -> None:
    """The program is right only if it gets through."""
    body = f"try {{ Object got = {what}; return a + 1; }} catch (Throwable e) {{ return 0; }}"
    if "python3" not in what:
        attack(in_class(body), expect=WRONG)


def test_an_object_that_runs_code_when_it_is_read_back(attack: Attack) -> None:
    """Nothing of Java's serialisation crosses: such an object stays where it is, as any other."""
    own = """static class Trap implements Serializable {
            private Object readResolve() { throw new Error(); }
            private void readObject(ObjectInputStream in) { Runtime.getRuntime().halt(0); }
        }"""
    attack(in_class("return new Trap();", OBJECT, own), OBJECT, expect=WRONG)


BOMBS = {
    "brackets": "class C { static int f(int a) { return " + "(" * 200_000 + "a" + ")" * 200_000 + "; } }",
    "operators": "class C { static int f(int a) { return a" + " + a" * 100_000 + "; } }",
    "constant": "class C { static final String S = \"" + "x" * 60_000 + "\"; static final String T = "
    + " + ".join(["S"] * 4_000) + "; static int f(int a) { return T.length(); } }",
    "inference": "import java.util.function.*; class C { static <T> T id(Supplier<T> s) { return s.get(); } "
    "static <T> T id(Function<T, T> s) { return null; } static int f(int a) { return "
    + "id(() -> " * 24 + "a" + ")" * 24 + "; } }",
    "unclosed": "class C { static int f(int a) { " + "if (true) { " * 50_000,
    "classes": "".join(f"class A{i} {{ }} " for i in range(30_000)),
    "generics": "class C { static int f(int a) { Object o = (" + "java.util.List<" * 3_000 + "String"
    + ">" * 3_000 + ") null; return 0; } }",
    "code too large": "class C { static int f(int a) { " + "a++;" * 60_000 + " return 0; } }",
    "errors": "class C { static int f(int a) { " + "b++;" * 60_000 + " return 0; } }",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_programs_that_are_hard_to_compile(attack: Attack, bomb: str) -> None:
    attack(BOMBS[bomb], expect={WRONG, COMPILE})


def test_an_annotation_processor_named_in_the_source(attack: Attack) -> None:
    attack('@javax.annotation.processing.SupportedAnnotationTypes("*") class P extends '
           "javax.annotation.processing.AbstractProcessor { public boolean process(java.util.Set s, "
           "javax.annotation.processing.RoundEnvironment e) { while (true); } } class C { static int f(int a) "
           "{ return 0; } }", expect={WRONG, COMPILE})  # fmt: skip
