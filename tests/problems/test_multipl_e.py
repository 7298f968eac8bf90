# Rows hold their texts on one line each.
# ruff: noqa: E501
"""The reader of MultiPL-E: rows made by hand in its format, and the real files where they are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from problems.datasets import load_problems
from problems.merged import END_MARK, MergedSuite
from problems.problem import CompletionStyle, Split, Use

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "multipl_e"
ROWS: dict[str, dict[str, Any]] = {
    "cpp": {
        "prompt": "#include<assert.h>\n#include<bits/stdc++.h>\nlong add(long a, long b) {\n",
        "tests": "}\nint main() {\n    auto candidate = add;\n    assert(candidate((1), (2)) == (3));\n}\n",
        "stop_tokens": ["\n}"],
    },
    "js": {
        "prompt": "//Adds.\nfunction add(a, b){\n",
        "tests": "const assert = require('node:assert');\n\nfunction test() {\n  assert.deepEqual(add(1, 2),3);\n}\n\ntest();",
        "stop_tokens": ["\nfunction "],
    },
    "ts": {
        "prompt": "//Adds.\nfunction add(a: number, b: number): number {\n",
        "tests": "declare var require: any;\nconst assert = require('node:assert');\n\nfunction test() {\n"
        "  assert.deepEqual(add(1, 2),3);\n}\n\ntest();",
        "stop_tokens": ["\nfunction "],
    },
    "php": {
        "prompt": "<?php\n// Adds.\nfunction add($a, $b) {\n",
        "tests": 'function test(): void {\n    if (add(1, 2) !== 3) { throw new Exception("Test failed!"); }\n}\n\ntest();',
        "stop_tokens": ["\nfunction"],
    },
    "cs": {
        "prompt": "using System;\nusing System.Diagnostics;\nclass Problem {\n    public static long Add(long a, long b) {\n",
        "tests": "    }\n    public static void Main(string[] args) {\n    Debug.Assert(Add((1L), (2L)) == (3L));\n    }\n\n}\n",
        "stop_tokens": ["\n    }\n"],
    },
    "sh": {
        "prompt": "#!/bin/bash\n# $1 is an integer\n# $2 is an integer\nadd() {\n",
        "tests": '}\n\ncandidate() {\n    add "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "1" "2") = "3" ]]\n}\n\n'
        "run_test",
        "stop_tokens": ["\n}"],
    },
}


def row_of(language: str) -> dict[str, Any]:
    return {"name": "HumanEval_0_add", "language": language, **ROWS[language]}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return f"multipl-e:{path}"


@pytest.mark.parametrize("language", ROWS)
def test_a_row_is_a_problem_with_merged_tests_that_end_with_the_mark(tmp_path: Path, language: str) -> None:
    (problem,) = load_problems(write(tmp_path, row_of(language)))
    assert problem.id == f"MultiPL-E/{language}/HumanEval_0_add"
    assert problem.completion_style is CompletionStyle.CONTINUE
    assert problem.stop_strings == tuple(ROWS[language]["stop_tokens"])
    assert problem.prompt == ROWS[language]["prompt"]
    suite = problem.suites["main"]
    assert isinstance(suite, MergedSuite)
    before, _, _ = suite.tests.partition(END_MARK)
    assert "3" in before, "the mark stands after the test"


def test_problems_are_for_evaluation_only(tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path, row_of("cpp")))
    assert problem.use is Use.EVALUATE
    assert problem.split is Split.TEST
    assert "machine learning restriction" in problem.licence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "cobol"}, r"line 1: field language: 'cobol' is none of java, cpp, js, ts, php, cs, sh"),
        ({"tests": "}\nint main() { return 0; } // end"}, "line 1: field tests: the tests' main function"),
        ({"stop_tokens": "x"}, "line 1: field stop_tokens"),
        ({"prompt": None}, "line 1: field prompt"),
    ],
)
def test_a_malformed_row_is_named_by_line_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_problems(write(tmp_path, {**row_of("cpp"), **change}))


@pytest.mark.parametrize(("name", "count"), [("cpp", 161), ("js", 161), ("ts", 159), ("php", 161)])
def test_every_row_of_the_real_files_is_read(name: str, count: int) -> None:
    path = REAL / f"humaneval-{name}.jsonl"
    if not path.exists():
        pytest.skip("the data set is not here")
    problems = load_problems(f"multipl-e:{path}")
    assert len(problems) == count
    assert len({problem.id for problem in problems}) == count
