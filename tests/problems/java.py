"""Running many small trusted Java programs of ours with one compile: for tests only."""

import json
import shutil
import subprocess
from pathlib import Path

from problems.synthetic.tasks import Case

HAS_JAVA = shutil.which("javac") is not None and shutil.which("java") is not None

_COMPILE_EACH = """
import java.net.URI;
import java.nio.file.*;
import java.util.*;
import javax.tools.*;

class CompileEach {
    public static void main(String[] args) throws Exception {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        StandardJavaFileManager files = compiler.getStandardFileManager(null, null, null);
        for (int i = 0; i < Integer.parseInt(args[1]); i++) {
            String text = Files.readString(Path.of(args[0], i + ".txt"));
            var found = new DiagnosticCollector<JavaFileObject>();
            var source = new SimpleJavaFileObject(URI.create("string:///A.java"), JavaFileObject.Kind.SOURCE) {
                public CharSequence getCharContent(boolean ignore) { return text; }
            };
            compiler.getTask(null, files, found, List.of("-proc:none", "-d", args[0]), null, List.of(source)).call();
            System.out.println(found.getDiagnostics().stream().filter(d -> d.getKind() == Diagnostic.Kind.ERROR)
                .map(d -> d.getCode()).findFirst().orElse(""));
        }
    }
}
"""


def _literal(value: object) -> str:
    if isinstance(value, list):
        return f"List.of({', '.join(map(str, value))})"
    return json.dumps(value) if isinstance(value, str) else str(value)


def run_java(programs: list[tuple[str, tuple[Case, ...]]], folder: Path) -> list[list[str]]:
    """What each program's ``f`` returns for each test, as Java prints it; ``!`` where it throws."""
    imports = "import java.util.*;\n"
    pieces: list[str] = [imports]
    for index, (program, tests) in enumerate(programs):
        assert program.startswith(imports)
        pieces.append(program.removeprefix(imports).replace("class Solution", f"class S{index}", 1))
        calls = "".join(
            f"        try {{ System.out.println(S{index}.f({_literal(test.given)})); }}"
            ' catch (Exception e) { System.out.println("!"); }\n'
            for test in tests
        )
        pieces.append(f"class M{index} {{\n    static void run() {{\n{calls}    }}\n}}\n")
    runs = "".join(f"        M{index}.run();\n" for index in range(len(programs)))
    pieces.append(f"class Main {{\n    public static void main(String[] args) {{\n{runs}    }}\n}}\n")
    (folder / "Main.java").write_text("".join(pieces))
    subprocess.run(["javac", "-proc:none", "-nowarn", "-d", folder, folder / "Main.java"], check=True)
    printed = subprocess.run(["java", "-cp", folder, "Main"], check=True, capture_output=True, text=True).stdout
    lines = iter(printed.split("\n"))
    return [[next(lines) for _ in tests] for _, tests in programs]


def first_compile_errors(programs: list[str], folder: Path) -> list[str]:
    """javac's code of the first error of each program; empty where it compiles."""
    (folder / "CompileEach.java").write_text(_COMPILE_EACH)
    for index, program in enumerate(programs):
        (folder / f"{index}.txt").write_text(program)
    command = ["java", folder / "CompileEach.java", folder, str(len(programs))]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return printed.split("\n")[: len(programs)]
