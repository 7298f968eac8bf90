"""What kind of error a compiler's message is about: a few classes that mean the same in Java and Python."""

from __future__ import annotations

import re
from enum import StrEnum

from sandbox.verdict import Diagnostic, Outcome, Verdict

JAVAC = "compiler.err."


class ErrorClass(StrEnum):
    """Classes of compile errors."""

    SYNTAX = "syntax"
    UNRESOLVED_SYMBOL = "unresolved_symbol"
    TYPE_MISMATCH = "type_mismatch"
    MISSING_RETURN = "missing_return"
    UNREACHABLE = "unreachable"
    UNINITIALISED = "uninitialised"
    DUPLICATE_DECLARATION = "duplicate_declaration"
    ARITY = "arity"
    UNHANDLED_EXCEPTION = "unhandled_exception"
    ACCESS = "access"
    COMPILER_LIMIT = "compiler_limit"  # too much for the compiler: its CPU, memory or output limit, or it crashed
    OTHER = "other"


# All that the parser and the tokenizer of OpenJDK 17 can say, and what is said of a statement in a wrong place.
_JAVA_SYNTAX = """
    array.and.receiver array.dimension.missing assert.as.identifier bad.initializer cannot.create.array.with.diamond
    cannot.create.array.with.type.arguments catch.without.try class.not.allowed dot.class.expected else.without.if
    enum.as.identifier enum.constant.expected enum.constant.not.expected expected expected2 expected3 expected4
    expected.module expected.module.or.open expected.str finally.without.try fp.number.too.large fp.number.too.small
    illegal.array.creation.both.dimension.and.initialization illegal.start.of.expr illegal.start.of.stmt
    illegal.start.of.type initializer.not.allowed int.number.too.large invalid.lambda.parameter.declaration
    invalid.meth.decl.ret.type.req invalid.permits.clause invalid.yield local.enum mod.not.allowed.here
    no.annotations.on.dot.class not.stmt orphaned premature.eof repeated.modifier restricted.type.not.allowed
    restricted.type.not.allowed.array restricted.type.not.allowed.compound restricted.type.not.allowed.here
    switch.case.unexpected.statement this.as.identifier try.with.resources.expr.needs.var
    try.without.catch.finally.or.resource.decls underscore.as.identifier underscore.as.identifier.in.lambda
    varargs.and.old.array.syntax varargs.and.receiver varargs.must.be.last variable.not.allowed wrong.receiver
    empty.char.lit illegal.char illegal.char.for.encoding illegal.dot illegal.esc.char illegal.line.end.in.char.lit
    illegal.text.block.open illegal.underscore invalid.binary.number invalid.hex.number malformed.fp.lit
    unclosed.char.lit unclosed.comment unclosed.str.lit unclosed.text.block illegal.nonascii.digit illegal.unicode.esc
    break.outside.switch.loop cont.outside.loop ret.outside.meth missing.meth.body.or.decl.abstract
    call.must.be.first.stmt.in.ctor invalid.module.directive local.classes.cant.extend.sealed
"""
_JAVA_BY_CODE = {
    ErrorClass.SYNTAX: _JAVA_SYNTAX,
    ErrorClass.UNRESOLVED_SYMBOL: """
        cant.resolve cant.resolve.args cant.resolve.args.params cant.resolve.location cant.resolve.location.args
        cant.resolve.location.args.params doesnt.exist undef.label package.not.visible encl.class.required
        not.encl.class
    """,
    ErrorClass.TYPE_MISMATCH: """
        prob.found.req incomparable.types operator.cant.be.applied operator.cant.be.applied.1 cant.deref
        foreach.not.applicable.to.type array.req.but.found illegal.initializer.for.type unexpected.type
        types.incompatible cant.apply.diamond cant.apply.diamond.1 cant.infer.local.var.type type.found.req
        incompatible.thrown.types.in.mref invalid.mref unexpected.lambda unexpected.mref const.expr.req string.const.req
        not.within.bounds override.incompatible.ret generic.array.creation void.not.allowed.here type.var.cant.be.deref
        instanceof.pattern.no.subtype instanceof.reifiable.not.safe constant.label.not.compatible ref.ambiguous
        illegal.parenthesized.expression switch.mixing.case.types improperly.formed.type.param.missing
        does.not.override.abstract method.does.not.override.superclass abstract.cant.be.instantiated
    """,
    ErrorClass.MISSING_RETURN: "missing.ret.stmt lambda.body.neither.value.nor.void.compatible not.exhaustive",
    ErrorClass.UNREACHABLE: """
        unreachable.stmt initializer.must.be.able.to.complete.normally except.already.caught pattern.dominated
    """,
    ErrorClass.UNINITIALISED: """
        var.might.not.have.been.initialized var.not.initialized.in.default.constructor illegal.forward.ref
        illegal.self.ref cant.ref.before.ctor.called
    """,
    ErrorClass.DUPLICATE_DECLARATION: """
        already.defined already.defined.in.clinit already.defined.single.import already.defined.static.single.import
        already.defined.this.unit duplicate.class duplicate.case.label duplicate.default.label label.already.in.use
        name.clash.same.erasure match.binding.exists repeated.interface
    """,
    ErrorClass.ARITY: "wrong.number.type.args type.doesnt.take.params anon.class.impl.intf.no.args",
    ErrorClass.UNHANDLED_EXCEPTION: """
        unreported.exception.need.to.catch.or.throw unreported.exception.default.constructor
        unreported.exception.implicit.close except.never.thrown.in.try override.meth.doesnt.throw
    """,
    ErrorClass.ACCESS: """
        report.access not.def.public not.def.public.cant.access not.def.access.class.intf.cant.access
        not.def.access.class.intf.cant.access.reason not.def.access.package.cant.access non-static.cant.be.ref
        cant.access cant.assign.val.to.var cant.assign.val.to.final.var final.parameter.may.not.be.assigned
        var.might.already.be.assigned var.might.be.assigned.in.loop cant.ref.non.effectively.final.var
        local.var.accessed.from.icls.needs.final cant.inherit.from.final override.weaker.access
        abstract.cant.be.accessed.directly try.resource.may.not.be.assigned override.static override.meth
    """,
}
_JAVA = {JAVAC + code: found for found, codes in _JAVA_BY_CODE.items() for code in codes.split()}
_JAVA_CALLS = {JAVAC + "cant.apply.symbol", JAVAC + "cant.apply.symbols"}
_LENGTHS_DIFFER = re.compile(r"argument lists differ in length")
_ARGUMENT_MISMATCH = re.compile(r"argument mismatch|incompatible|not conform|inferred|inference")

# Python: what its own compiler raises, and the messages of pyflakes that say that a line will fail if it is reached.
_PYTHON = {
    **dict.fromkeys(("SyntaxError", "IndentationError", "TabError"), ErrorClass.SYNTAX),
    **dict.fromkeys(
        (
            "ReturnOutsideFunction", "YieldOutsideFunction", "ContinueOutsideLoop", "BreakOutsideLoop",
            "DefaultExceptNotLast", "TwoStarredExpressions", "TooManyExpressionsInStarredAssignment",
            "ForwardAnnotationSyntaxError", "StringDotFormatInvalidFormat", "PercentFormatInvalidFormat",
            "PercentFormatUnsupportedFormatCharacter",
        ),
        ErrorClass.SYNTAX,
    ),
    **dict.fromkeys(("UndefinedName", "UndefinedExport", "NameError"), ErrorClass.UNRESOLVED_SYMBOL),
    "UndefinedLocal": ErrorClass.UNINITIALISED,
    "DuplicateArgument": ErrorClass.DUPLICATE_DECLARATION,
    **dict.fromkeys(
        (
            "StringDotFormatMissingArgument", "PercentFormatPositionalCountMismatch", "PercentFormatMissingArgument",
            "PercentFormatStarRequiresSequence",
        ),
        ErrorClass.ARITY,
    ),
    **dict.fromkeys(
        (
            "StringDotFormatMixingAutomatic", "PercentFormatMixedPositionalAndNamed", "PercentFormatExpectedMapping",
            "PercentFormatExpectedSequence", "RaiseNotImplemented",
        ),
        ErrorClass.TYPE_MISMATCH,
    ),
}  # fmt: skip
_LIMITS = {
    "CompilerTimeLimit", "CompilerMemoryLimit", "CompilerOutputLimit", "CompilerFailed", "compiler.crash",
    "RecursionError", "MemoryError", "OverflowError",
}  # fmt: skip


def error_class(one: Diagnostic) -> ErrorClass:
    """The class of a message of javac, of Python's compiler or of pyflakes; ``OTHER`` where none is known."""
    if one.kind in _JAVA_CALLS:
        return _of_call(one.message)
    if one.kind in _LIMITS:
        return ErrorClass.COMPILER_LIMIT
    return _JAVA.get(one.kind) or _PYTHON.get(one.kind) or ErrorClass.OTHER


def first_error(verdict: Verdict) -> str:
    """Class of the first error of a program that did not compile; empty for one that did."""
    if verdict.outcome is not Outcome.COMPILE_ERROR:
        return ""
    return error_class(verdict.diagnostics[0]).value if verdict.diagnostics else ErrorClass.OTHER.value


def _of_call(message: str) -> ErrorClass:
    """A method that takes other arguments: of another number, where no method of the name takes so many."""
    if _LENGTHS_DIFFER.search(message) and not _ARGUMENT_MISMATCH.search(message):
        return ErrorClass.ARITY
    return ErrorClass.TYPE_MISMATCH
