"""Java's executor: resident compilers, and a judge's and a candidate's virtual machine for each run.

program + link --compiler--> classes ----------------+
                                                      +--> judge <==socket pair==> candidate
test + stubs  --compiler for tests, once a suite--> --+
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from problems.java import JavaSuite
from problems.problem import Limits
from problems.stdio import Checker, StdioCase, StdioSuite
from sandbox import shipping
from sandbox.compiling import Compiled
from sandbox.config import SandboxConfig
from sandbox.java.compiling import CompilerPool
from sandbox.java.crossing import UncrossableTypeError
from sandbox.java.jobs import Files, judge_job
from sandbox.java.machine import compiler_words, pair_words
from sandbox.java.sources import (
    LINK_FILE,
    START_CLASS,
    STUB_FILE,
    TEST_FILE,
    link_source,
    merged_sources,
    stub_source,
    test_source,
)
from sandbox.judgement import infrastructure_error, verdict_of
from sandbox.languages.definition import Language
from sandbox.languages.java import ENVIRONMENT, JAVA, JAVA_PROGRAM
from sandbox.merging import merged_verdict, of_all_cases
from sandbox.pool import SlotPool, Work
from sandbox.resident.protocol import Kind
from sandbox.slot import Slot
from sandbox.verdict import Outcome, Program, Suite, Verdict

_SOURCE_FILE = "Solution.java"
_SUITES_KEPT = 4096
_TOLD_OF_ALL = frozenset({Outcome.COMPILE_ERROR, Outcome.INFRASTRUCTURE_ERROR})
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **ENVIRONMENT}


class JavaPool(SlotPool):
    """Executor for Java. Suites of ``JavaSuite`` are judged apart; others are as in any language."""

    def __init__(self, config: SandboxConfig, make_slot: Callable[[], Slot]) -> None:
        plan = {**pair_words(JAVA_PROGRAM), "environment": _ENVIRONMENT}

        def make_pair_slot() -> Slot:
            slot = make_slot()
            slot.ship(shipping.SERVER, {"pair": plan})
            return slot

        super().__init__(config, make_pair_slot, JAVA)
        words = partial(compiler_words, JAVA_PROGRAM)
        self._compilers = CompilerPool(config, make_slot, words(for_tests=False), _ENVIRONMENT)
        one = config.model_copy(update={"slots": 1})
        # Tests are compiled where no program ever is.
        self._test_compilers = CompilerPool(one, make_slot, words(for_tests=True), _ENVIRONMENT)
        self._tests: OrderedDict[JavaSuite, asyncio.Task[Verdict]] = OrderedDict()

    async def start(self) -> None:
        await asyncio.gather(super().start(), self._compilers.start(), self._test_compilers.start())

    async def close(self) -> None:
        await asyncio.gather(super().close(), self._compilers.close(), self._test_compilers.close())

    async def _run_foreign(
        self, language: Language, program: Program, suite: Suite, limits: Limits, *, stop: bool
    ) -> Verdict:
        if not isinstance(suite, JavaSuite):
            return await super()._run_foreign(language, program, suite, limits, stop=stop)
        try:
            link = link_source(suite).encode()
            stub_source(suite)
        except UncrossableTypeError as error:
            if self._config.refuse_merged:
                return infrastructure_error(len(suite.cases), f"the suite cannot be judged apart: {error}")
            return of_all_cases(len(suite.cases), await self._run_together(language, program, suite, limits))
        compiled = await self._compilers.compile(
            [(_SOURCE_FILE, program.source + suite.tail.encode()), (LINK_FILE, link)]
        )
        verdict = of_all_cases(len(suite.cases), await self._judge(language, suite, compiled, limits))
        if stop or verdict.passed or not suite.parts or verdict.outcome in _TOLD_OF_ALL:
            return verdict
        parts = (replace(suite, test=part, parts=()) for part in suite.parts)
        cases = [case for part in parts for case in (await self._judge(language, part, compiled, limits)).cases]
        return replace(verdict, cases=tuple(cases))

    async def _judge(self, language: Language, suite: JavaSuite, compiled: Verdict, limits: Limits) -> Verdict:
        """The verdict on a program, or on one that did not compile."""
        tests = await self._compiled_tests(suite)
        if not isinstance(tests, Compiled):
            return _broken_suite(tests)
        if not isinstance(compiled, Compiled):
            return compiled
        return await self._run_pair(language, suite, compiled.files, tests.files, limits)

    async def _run_together(self, language: Language, program: Program, suite: JavaSuite, limits: Limits) -> Verdict:
        """Test and program in one process, by what it prints."""
        mark = secrets.token_hex(16)
        source, others = merged_sources(suite, program.source, mark)
        compiled = await self._compilers.compile([(_SOURCE_FILE, source), *others])
        if not isinstance(compiled, Compiled):
            return merged_verdict(program, compiled)
        java, *words = language.run
        started = replace(language, entry=_start_class, run=(java, "-enableassertions", *words))
        printing = StdioSuite((StdioCase("", mark),), Checker.LAST_LINE)
        return merged_verdict(program, await self._run_compiled(started, compiled.files, printing, limits))

    async def _run_pair(
        self, language: Language, suite: JavaSuite, program: Files, tests: Files, limits: Limits
    ) -> Verdict:
        job = judge_job(suite, program, tests, limits.output_bytes)
        limits = replace(limits, num_processes=limits.num_processes + language.num_threads)
        return await self.run_work(Work(job, 1, limits, partial(verdict_of, 1), Kind.PAIR, 0))

    async def _compiled_tests(self, suite: JavaSuite) -> Verdict:
        """``Compiled``, made once for each suite; of a failure of ours nothing is kept."""
        task = self._tests.get(suite)
        if task is None:
            sources = [(STUB_FILE, stub_source(suite).encode()), (TEST_FILE, test_source(suite).encode())]
            task = self._tests[suite] = asyncio.create_task(self._test_compilers.compile(sources))
            if len(self._tests) > _SUITES_KEPT:
                self._tests.popitem(last=False)
        self._tests.move_to_end(suite)
        verdict = await asyncio.shield(task)
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            self._tests.pop(suite, None)
        return verdict

    async def _compile(
        self,
        language: Language,  # noqa: ARG002
        program: Program,
        limits: Limits,  # noqa: ARG002 - a resident compiler has limits of its own
        num_cases: int,
    ) -> Verdict:
        return await self._compilers.compile([(_SOURCE_FILE, program.source)], num_cases)


def _start_class(_: Files) -> str:
    return START_CLASS


def _broken_suite(verdict: Verdict) -> Verdict:
    if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
        return verdict
    first = verdict.diagnostics[0]
    return infrastructure_error(1, f"the suite does not compile: {first.kind}: {first.message}"[:300])
