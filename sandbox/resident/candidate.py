"""The candidate's side: holds the program, answers calls. It learns nothing but its source and the arguments.

Whatever a program does to this module it does to itself: the judge believes nothing of what comes back beyond that it
is what the candidate chose to return.
"""

# Values of any type pass through here, so strict typing has nothing to hold on to.
# pyright: basic

from __future__ import annotations

import operator
import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from .foreign import compile_program, execute
from .script import run_script
from .wire import Decoder, Encoder, PeerGoneError, WireError, receive_frame, send_frame, text_of

_MAX_REQUEST_BYTES = 1 << 30
_MUTABLE_TAGS = frozenset("tdsBx")
# Types whose objects the judge may pull one by one.
_ITERATOR, _OBJECT = "iterator", "object"

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "delete_item": operator.delitem,
    "contains": operator.contains,
    "length": len,
    "iterate": iter,
    "next": next,
    "text": str,
    "truth": bool,
    "is_instance": lambda kind, value: isinstance(value, kind),
}


class Candidate:
    """The program's process: one module of its own, and the objects that the judge holds handles of."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._module = types.ModuleType("solution")
        self._objects: list[Any] = []
        self._handles: dict[int, int] = {}
        self._encoder = Encoder(self._handle)
        self._decoder = Decoder(self._resolve)
        self._sequence = 0

    def serve(self) -> None:
        """Loads the program, then answers until the judge hangs up."""
        send_frame(self._channel, ["up"])
        source, setup, mode = self._receive()
        if mode == "execute":
            execute(source, self._channel)
        if mode == "compile":
            return compile_program(source, self._channel)
        code = self._compiled(bytes.fromhex(source))
        if isinstance(code, list):
            send_frame(self._channel, code)
        elif mode == "script":
            send_frame(self._channel, ["loaded"])
            run_script(code, self._channel)
        else:
            send_frame(self._channel, self._load(code, setup))
        while True:
            self._answer(self._receive())

    def _receive(self) -> Any:
        return receive_frame(self._channel, _MAX_REQUEST_BYTES)[0]

    def _compiled(self, source: bytes) -> types.CodeType | list[Any]:
        """The program's code, or the message that says why there is none."""
        try:
            return compile(source, "solution.py", "exec", dont_inherit=True)
        except SyntaxError as error:
            line, column = (max(place or 0, 0) for place in (error.lineno, error.offset))
            return ["refused", type(error).__name__, text_of(error), line, column]
        except (ValueError, MemoryError, RecursionError, OverflowError) as error:
            return ["refused", type(error).__name__, text_of(error), 0, 0]

    def _load(self, code: types.CodeType, setup: str) -> list[Any]:
        sys.modules["solution"] = self._module
        # A program may import modules that happen to be called as ours are.
        for name in [name for name in sys.modules if name == __package__ or name.startswith(f"{__package__}.")]:
            del sys.modules[name]
        space = self._module.__dict__
        try:
            if setup:
                exec(compile(setup, "setup.py", "exec", dont_inherit=True), space)
            exec(code, space)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the judge is told
            return ["failed", *_described(error)]
        return ["loaded"]

    def _answer(self, request: Any) -> None:
        sequence, operation, target, arguments, keywords = request
        self._sequence = sequence
        before = [*arguments, *keywords.values()]
        try:
            values = [self._decoder.decode(argument) for argument in arguments]
            named = {name: self._decoder.decode(argument) for name, argument in keywords.items()}
            result = self._perform(operation, target, values, named)
            reply = [
                sequence,
                "returned",
                self._encoder.encode(result),
                self._changed(before, [*values, *named.values()]),
            ]
        except BaseException as error:  # noqa: BLE001 - whatever it is, the judge is told
            reply = [sequence, "raised", *_described(error)]
        send_frame(self._channel, reply)

    def _perform(self, operation: str, target: Any, values: list[Any], named: dict[str, Any]) -> Any:
        subject = self._subject(target)
        if operation == "call":
            return subject(*values, **named)
        return _OPERATIONS[operation](subject, *values)

    def _subject(self, target: Any) -> Any:
        if isinstance(target, int):
            return self._objects[target]
        try:
            return self._module.__dict__[target]
        except KeyError:
            raise NameError(f"name {target!r} is not defined") from None

    def _changed(self, before: list[Any], values: list[Any]) -> list[Any]:
        """(position, value) of each argument that the call has changed in place."""
        changed: list[Any] = []
        for position, (sent, value) in enumerate(zip(before, values, strict=True)):
            if isinstance(sent, list) or (isinstance(sent, dict) and not _MUTABLE_TAGS.isdisjoint(sent)):
                now = self._encoder.encode(value)
                if now != sent:
                    changed.append([position, now])
        return changed

    def _handle(self, value: Any) -> Any:
        """What is no plain data stays here; the judge gets a number for it."""
        if isinstance(value, _Callback):
            return {"q": value.number}
        number = self._handles.get(id(value))
        if number is None:
            number = self._handles[id(value)] = len(self._objects)
            self._objects.append(value)
        kind = _ITERATOR if hasattr(type(value), "__next__") else _OBJECT
        return {"h": [number, kind, type(value).__name__]}

    def _resolve(self, tag: str, body: Any) -> Any:
        if tag == "h":
            return self._objects[body[0]]
        if tag == "n":
            return self._subject(body)
        if tag == "q":
            return _Callback(body, self._call_back)
        raise WireError(tag)

    def _call_back(self, number: int, values: Iterable[Any], named: dict[str, Any]) -> Any:
        """Calls a function of the test, which runs in the judge."""
        arguments = [self._encoder.encode(value) for value in values]
        keywords = {name: self._encoder.encode(value) for name, value in named.items()}
        send_frame(self._channel, [self._sequence, "callback", number, arguments, keywords])
        while True:
            message = self._receive()
            if message[1] == "result":
                return self._decoder.decode(message[2])
            if message[1] == "error":
                raise _as_exception(message[2], message[3])
            self._answer(message)  # the test's function called the candidate again


class _Callback:
    """A function of the test, as the candidate sees it."""

    def __init__(self, number: int, call: Callable[[int, Iterable[Any], dict[str, Any]], Any]) -> None:
        self.number = number
        self._call = call

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._call(self.number, values, named)


def _as_exception(name: str, message: str) -> Exception:
    import builtins

    kind = getattr(builtins, name, None)
    return kind(message) if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError(message)


def _described(error: BaseException) -> list[Any]:
    """Names of the classes, nearest first, and the message."""
    return [[kind.__name__ for kind in type.mro(type(error))][:20], text_of(error)]


def run(channel: int) -> None:
    """Serves until the judge hangs up; never returns."""
    try:
        Candidate(channel).serve()
    except PeerGoneError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a program broke its own side of the channel
        os._exit(1)
