"""Java sources that are made from a suite: the link on the candidate's side, the stubs on the judge's.

    test's main -> stub -> [judge] ==socket pair==> [candidate] -> link -> the program's method

The link is compiled together with the program. It says what the test would say, so the compiler itself finds out
whether the program has the methods asked for. It knows signatures only, which the prompt tells anyway.
"""

from __future__ import annotations

from problems.java import JavaMethod, JavaSuite
from sandbox.java.crossing import boxed, full_type

LINK_CLASS = "CrucibleLink"
"""As in ``Candidate.java``."""
LINK_FILE, STUB_FILE, TEST_FILE = "CrucibleLink.java", "CrucibleStub.java", "CrucibleTest.java"
"""Names of the sources; a program's own errors stand in none of them."""
START_CLASS, START_FILE = "CrucibleStart", "CrucibleStart.java"
"""Of a merged run."""


def _constructors(suite: JavaSuite) -> dict[str, int]:
    """Numbers of the constructors, after those of the methods, of classes with methods of objects."""
    names = dict.fromkeys(method.class_name for method in suite.methods if not method.is_static)
    return {name: len(suite.methods) + index for index, name in enumerate(names)}


def link_source(suite: JavaSuite) -> str:
    """Raises UncrossableTypeError for a suite with types that cannot cross."""
    arms = [_link_arm(number, method) for number, method in enumerate(suite.methods)]
    arms += [f"case {number}: return new {name}();" for name, number in _constructors(suite).items()]
    lines = "\n            ".join(arms)
    return f"""\
@java.lang.SuppressWarnings("all")
final class {LINK_CLASS} {{
    static java.lang.Object call(int method, java.lang.Object self, java.lang.Object[] values)
            throws java.lang.Throwable {{
        switch (method) {{
            {lines}
            default: throw new java.lang.IllegalArgumentException();
        }}
    }}
}}
"""


def _link_arm(number: int, method: JavaMethod) -> str:
    types = [full_type(parameter) for parameter in method.parameters]
    values = ", ".join(f"({boxed(full)}) values[{index}]" for index, full in enumerate(types))
    subject = method.class_name if method.is_static else f"(({method.class_name}) self)"
    call = f"{subject}.{method.name}({values})"
    returns = full_type(method.returns)
    if returns == "void":
        return f"case {number}: {call}; return null;"
    return f"case {number}: {{ {returns} result = {call}; return result; }}"


def stub_source(suite: JavaSuite) -> str:
    """The candidate's classes as the judge has them. Raises UncrossableTypeError."""
    constructors = _constructors(suite)
    parts = [suite.imports]
    for name in suite.class_names:
        stubs = [_stub(number, method) for number, method in enumerate(suite.methods) if method.class_name == name]
        if name in constructors:
            stubs.insert(0, f"private final Object crucibleSelf = crucible.Stub.make({constructors[name]});")
        if name == suite.main_class:
            stubs.append(suite.members)
        body = "\n    ".join(stubs)
        parts.append(f'@SuppressWarnings("all")\nclass {name} {{\n    {body}\n}}\n')
    return "\n".join(parts)


def _stub(number: int, method: JavaMethod) -> str:
    types = [full_type(parameter) for parameter in method.parameters]
    declared = ", ".join(f"{full} a{index}" for index, full in enumerate(types))
    values = "new Object[] {" + ", ".join(f"a{index}" for index in range(len(types))) + "}"
    returns = full_type(method.returns)
    static, call = "static ", f"crucible.Stub.call({number}, {values})"
    if not method.is_static:
        static, call = "", f"crucible.Stub.callOn(crucibleSelf, {number}, {values})"
    body = f"{call};" if returns == "void" else f"return ({boxed(returns)}) {call};"
    throws = f" throws {', '.join(method.throws)}" if method.throws else ""
    return f"public {static}{returns} {method.name}({declared}){throws} {{ {body} }}"


def test_source(suite: JavaSuite) -> str:
    """The test's own classes."""
    return f"{suite.imports}\n{suite.test}\n"


def merged_sources(suite: JavaSuite, program: bytes, mark: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    """For a run in which test and program share a process: the program's source, and name and content of the others.

    It prints ``mark`` when the test's main has come to its end.
    """
    if suite.members:  # they stand in the program's own class, whose last brace is the tail's
        program += f"{suite.tail.rstrip().removesuffix('}')}\n{suite.members}\n}}\n".encode()
    start = f"""\
final class {START_CLASS} {{
    public static void main(String[] arguments) throws Exception {{
        {suite.main_class}.main(arguments);
        System.out.println();
        System.out.println("{mark}");
    }}
}}
"""
    return program, [(START_FILE, start.encode()), (TEST_FILE, test_source(suite).encode())]
