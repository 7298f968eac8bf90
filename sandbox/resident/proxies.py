"""What the test code holds of the candidate: entry points, and handles of objects that are not plain data.

A handle never asks the candidate whether it equals something or what its hash is: ``==`` and ``hash`` go by which of
the candidate's objects it is. So an object that is equal to everything equals nothing here.

What a function returns is an *answer*, and expected to be plain data: what is asked of an answer that is none is
answered from its values, which are drawn one by one, and never by the object, which would be told in the question what
is expected. It has no method of any plain type, and no truth. What a test makes by calling a class by its name,
``Trie()``, and what it has from that object, is an *instance*, whose behaviour is the very thing that is tested. A
*namespace* (LeetCode's ``Solution``) is made for its methods alone, and what these return is an answer again. The suite
says which names are which; the program has no part in it.
"""

# Values of any type pass through here, so strict typing has nothing to hold on to.
# pyright: basic

from __future__ import annotations

import builtins
import collections
import enum
import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, cast

from .wire import (
    PLAIN,
    Decoder,
    Encoder,
    FrameTooLargeError,
    PeerGoneError,
    WireError,
    receive_frame,
    send_frame,
    text_of,
)

BEGINS = b"."
TESTS = "tests"
"""Name of the module in which a suite runs."""
_MAX_LENGTH = 10_000_000
_OF_PLAIN_TYPES = frozenset(
    name
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice)
    for name in dir(kind)
)
"""Attributes that an answer of a plain type would have had here."""


class Standing(enum.IntEnum):
    """How a test came by an object of the program: what may be asked of it."""

    ANSWER = 0  # returned by a function
    PART = 1  # returned by a namespace's method; ``if node`` is asked of it, too
    DERIVED = 2  # returned by an instance's method
    NAMESPACE = 3  # made for its methods alone
    INSTANCE = 4  # made by calling a class

    @property
    def of_what_it_returns(self) -> Standing:
        """Of what its methods return and its attributes are."""
        if self is Standing.NAMESPACE:
            return Standing.PART
        return Standing.DERIVED if self is Standing.INSTANCE else self

    @property
    def is_answer(self) -> bool:
        """Whether what is asked of it is answered from its values."""
        return self < Standing.DERIVED


class CandidateGone(BaseException):
    """The candidate can answer no more. Not an Exception, so that a test's ``except Exception`` lets it through."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class CandidateExit(BaseException):
    """The candidate raised SystemExit or its like."""


class UnsupportedError(Exception):
    """The test passes something that cannot cross to another process.

    ``is_of_suite``: no program had a part in that. It was passed before the program had answered anything, or is an
    object of a class of the test's own.
    """

    def __init__(self, detail: str, *, is_of_suite: bool) -> None:
        super().__init__(detail)
        self.is_of_suite = is_of_suite


class Channel:
    """Requests to the candidate, one at a time. All bytes are counted against the output limit."""

    def __init__(self, descriptor: int, max_bytes: int, begins: int | None = None) -> None:
        """``begins``: a pipe that gets a byte before the first message is sent."""
        self._descriptor = descriptor
        self._begins = begins
        self._left = max_bytes
        self._handles: dict[tuple[int, Standing], Remote] = {}
        self._classes: frozenset[str] = frozenset()
        self._namespaces: frozenset[str] = frozenset()
        self._callbacks: list[Callable[..., Any]] = []
        self._encoder = Encoder(self._encode_special, is_exact=True)
        self._decoder = Decoder(self._decode_special)
        self._standing = Standing.ANSWER  # of what comes in answer to the present request
        self._socket = socket.socket(fileno=descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.gone: CandidateGone | None = None
        self.unsupported: UnsupportedError | None = None
        """Decides, whatever the test has made of it: a test may expect exceptions of any kind."""
        self.failed_callback: AssertionError | None = None
        """Likewise, of a function of the test that the program called."""
        self.num_requests = 0
        self.before_first_request: Callable[[], None] | None = None
        self.last_raised: BaseException | None = None
        self.signs: list[str] = []

    def define(self, classes: Iterable[str], namespaces: Iterable[str]) -> None:
        """What the suite says of its entry points."""
        self._classes, self._namespaces = frozenset(classes), frozenset(namespaces)

    def receive(self) -> Any:
        """The next frame. Raises CandidateGone for everything that ends the conversation."""
        if self.gone is not None:
            raise self.gone
        try:
            message, size = receive_frame(self._descriptor, self._left)
        except PeerGoneError:
            self._lose("ended", "the program ended")
        except FrameTooLargeError as error:
            self._lose("output", str(error))
        except WireError as error:
            self.signs.append("forged-frame")
            self._lose("protocol", str(error))
        self._left -= size
        return message

    def send(self, message: Any) -> None:
        """Sends a frame. Raises CandidateGone if nobody is there."""
        if self.gone is not None:
            raise self.gone
        if self._begins is not None:
            os.write(self._begins, BEGINS)
            os.close(self._begins)
            self._begins = None
        try:
            send_frame(self._descriptor, message)
        except PeerGoneError:
            self._lose("ended", "the program ended")

    def last_message(self) -> Any:
        """Waits until the candidate has closed its end; what it said last, if anything."""
        message = None
        try:
            while True:
                message = self.receive()
        except CandidateGone:
            return message

    def _lose(self, kind: str, detail: str) -> NoReturn:
        self.gone = CandidateGone(kind, detail)
        raise self.gone

    def _protocol_error(self, detail: str) -> NoReturn:
        self.signs.append("forged-frame")
        self._lose("protocol", detail)

    def expect_silence(self) -> None:
        """Nothing may wait to be read before we have asked. The end of the stream is no frame, and is let be."""
        if self.gone is not None or not any(event & select.POLLIN for _, event in self._poll.poll(0)):
            return
        try:
            is_written = bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            is_written = True  # urgent data: it makes the socket readable, and cannot be read
        if is_written:
            self.signs.append("early-frame")
            self._lose("protocol", "the program wrote a frame that nobody asked for")

    def request(
        self,
        operation: str,
        target: str | int,
        values: tuple[Any, ...],
        named: dict[str, Any],
        standing: Standing = Standing.ANSWER,
    ) -> Any:
        """What the candidate answers, as a value, or raised as the exception that it says it raised.

        ``target``: an entry point's name, or the number of an object; ``standing``: of that object.
        """
        is_called = isinstance(target, str) and operation == "call"
        if is_called and target in self._classes:
            expected = Standing.INSTANCE
        elif is_called and target in self._namespaces:
            expected = Standing.NAMESPACE
        else:
            expected = standing.of_what_it_returns
        try:
            arguments = [self._encoder.encode(value) for value in values]
            keywords = {name: self._encoder.encode(value) for name, value in named.items()}
        except (UnsupportedError, WireError) as error:
            # Of what a test asks an object that the program chose to return, plain data would have seen to it here;
            # and what is nested too deeply may hold what the program has returned.
            is_chosen = isinstance(target, int) and standing < Standing.NAMESPACE
            if is_chosen or (isinstance(error, WireError) and self.num_requests):
                raise TypeError(str(error)) from None
            self._refuse(error)
        if self.num_requests == 0 and self.before_first_request is not None:
            self.before_first_request()
        self.num_requests += 1
        self.expect_silence()
        # Not to be guessed: an answer written in advance, or left over, can then match no request.
        sequence = int.from_bytes(os.urandom(6), "big")
        self.send([sequence, operation, target, arguments, keywords])
        while True:
            reply = self.receive()
            self._standing = expected  # a callback may have asked something else meanwhile
            if not isinstance(reply, list) or len(cast("list[Any]", reply)) < 3 or reply[0] != sequence:
                self._protocol_error("a reply out of turn")
            body = cast("list[Any]", reply[1:])
            if body[0] == "callback" and len(body) == 4:
                self._serve_callback(sequence, body)
            elif body[0] == "returned" and len(body) == 3:
                return self._returned(body, [*values, *named.values()])
            elif body[0] == "raised" and len(body) == 3:
                self._raise(body[1], body[2], is_next=operation == "next")
            else:
                self._protocol_error("a reply of no known kind")

    def _refuse(self, error: UnsupportedError | WireError) -> NoReturn:
        if not isinstance(error, UnsupportedError):  # nested too deeply
            error = UnsupportedError(str(error), is_of_suite=True)
        self.unsupported = self.unsupported or error
        raise error

    def decode(self, value: Any) -> Any:
        """A value that the candidate sent."""
        try:
            return self._decoder.decode(value)
        except WireError as error:
            self._protocol_error(str(error))

    def _returned(self, body: list[Any], passed: list[Any]) -> Any:
        result = self.decode(body[1])
        if not isinstance(body[2], list):
            self._protocol_error("no list of changes")
        for change in cast("list[Any]", body[2]):
            match change:
                case [int(position), value] if 0 <= position < len(passed):
                    copy_back(passed[position], self.decode(value))
                case _:
                    self._protocol_error("a malformed change")
        return result

    def _raise(self, names: Any, message: Any, *, is_next: bool) -> NoReturn:
        """The nearest builtin class of the candidate's exception, so that a test's ``except ValueError`` works.

        A StopIteration would end the loop of a test that goes through ``map(f, inputs)``, as if all were well: it is
        believed of an iterator alone, and is a RuntimeError otherwise, as in a generator.
        """
        if not isinstance(names, list) or not isinstance(message, str):
            self._protocol_error("a malformed exception")
        texts = [name for name in cast("list[Any]", names) if isinstance(name, str)]
        shown = texts[0] if texts else "?"
        if not is_next and not {"StopIteration", "StopAsyncIteration"}.isdisjoint(texts):
            texts = ["RuntimeError"]
        for name in texts:
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    error = kind.__new__(kind)
                except TypeError:  # one that is made of others
                    continue
                error.args = (message[:200],)
                self.last_raised = error
                raise error
        exit_error = CandidateExit(f"{shown[:50]}: {message[:200]}")
        self.last_raised = exit_error
        raise exit_error

    def _serve_callback(self, sequence: int, body: list[Any]) -> None:
        _, number, arguments, keywords = body
        if not isinstance(number, int) or not 0 <= number < len(self._callbacks):
            self._protocol_error("a call of no function")
        if not isinstance(arguments, list) or not isinstance(keywords, dict):
            self._protocol_error("a malformed call")
        values = [self.decode(value) for value in cast("list[Any]", arguments)]
        named = {name: self.decode(value) for name, value in cast("dict[str, Any]", keywords).items()}
        try:
            returned = self._callbacks[number](*values, **named)
        except AssertionError as error:
            # What the judge has seen fail has failed; what was expected there is not told.
            self.failed_callback = self.failed_callback or error
            self.send([sequence, "error", "AssertionError", ""])
            return
        except Exception as error:  # noqa: BLE001 - the test's own exceptions pass through the program's code
            self.send([sequence, "error", type(error).__name__, text_of(error)])
            return
        try:
            result = self._encoder.encode(returned)
        except (UnsupportedError, WireError) as error:
            if isinstance(error, UnsupportedError) and error.is_of_suite:
                self._refuse(error)
            self.send([sequence, "error", "TypeError", str(error)])
            return
        self.send([sequence, "result", result])

    def _encode_special(self, value: Any) -> Any:
        kind = type(value)
        if kind is EntryPoint:
            return {"n": value.__name__}
        if issubclass(kind, Remote):
            return {"h": [value._number]}
        if callable(value):
            self._callbacks.append(value)
            return {"q": len(self._callbacks) - 1}
        what = f"an iterator of type {kind.__name__} as an argument" if isinstance(value, Iterator) else ""
        # What comes of a program is of exact types.
        is_of_suite = self.num_requests == 0 or kind.__module__ == TESTS or isinstance(value, PLAIN)
        raise UnsupportedError(what or f"an argument of type {kind.__name__}", is_of_suite=is_of_suite)

    def _decode_special(self, tag: str, body: Any) -> Any:
        if tag == "h":
            number, kind, name = body
            if not isinstance(number, int) or number < 0 or not isinstance(name, str):
                raise WireError("a malformed handle")
            key = (number, self._standing)
            if key not in self._handles:
                make = RemoteIterator if kind == "iterator" else Remote
                self._handles[key] = make(self, number, name[:50], self._standing)
            return self._handles[key]
        if tag == "q":
            return self._callbacks[body]
        raise WireError("an unknown tag")


def copy_back(original: Any, changed: Any) -> None:
    """Makes a mutable argument what the candidate made of its copy; nested objects keep their identity."""
    if isinstance(original, list | collections.deque | bytearray) and type(original) is type(changed):
        if len(original) == len(changed):
            for index, value in enumerate(changed):
                if not _copied_into(original[index], value):
                    original[index] = value
        else:
            original.clear()
            original.extend(changed)
    elif isinstance(original, dict) and isinstance(changed, dict):
        kept = {key: value for key, value in original.items() if key in changed}
        original.clear()
        for key, value in changed.items():
            original[key] = kept[key] if key in kept and _copied_into(kept[key], value) else value
    elif isinstance(original, set) and isinstance(changed, set):
        original.clear()
        original.update(changed)
    elif isinstance(original, tuple) and isinstance(changed, tuple):
        for old, new in zip(original, changed, strict=False):
            _copied_into(old, new)


def _copied_into(old: Any, new: Any) -> bool:
    """True if ``old`` could take the new contents itself."""
    if type(old) is type(new) and isinstance(old, list | dict | set | bytearray | collections.deque):
        copy_back(old, new)
        return True
    return False


class EntryPoint:
    """A name that the candidate defines: a function, or a class to make objects of."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.__name__ = name

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._channel.request("call", self.__name__, values, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._channel.request("get", self.__name__, (name,), {})

    def __instancecheck__(self, value: Any) -> bool:
        """Of a class of the program, which says so of its own objects only: of plain data it is never true."""
        return isinstance(value, Remote) and self._channel.request("is_instance", self.__name__, (value,), {}) is True


class Remote:
    """An object that stays with the candidate. Equality and hash are by which one it is."""

    __slots__ = ("_channel", "_name", "_number", "_standing")

    def __init__(self, channel: Channel, number: int, name: str, standing: Standing) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_standing", standing)

    def _ask(self, operation: str, *values: Any) -> Any:
        return self._channel.request(operation, self._number, values, {}, self._standing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)

    def __bool__(self) -> bool:
        truth = None if self._standing is Standing.ANSWER else self._ask("truth")
        if not isinstance(truth, bool):
            raise TypeError(f"the program returned an object ({self._name}) where a test wants true or false")
        return truth

    def __repr__(self) -> str:
        return f"<{self._name} of the program>"

    def __str__(self) -> str:
        text = self._ask("text")
        return text if isinstance(text, str) else repr(self)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._channel.request("call", self._number, values, named, self._standing)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._standing.is_answer and name in _OF_PLAIN_TYPES:
            raise AttributeError(f"the program returned an object ({self._name}) where a test wants to ask {name}()")
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        if not self._standing.is_answer:
            return self._ask("item", key)
        if isinstance(self, RemoteIterator) or not isinstance(key, int | slice):
            raise TypeError(f"the program returned an object ({self._name}) where a test wants its item {key!r}")
        return [*self][key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delete_item", key)

    def __contains__(self, key: Any) -> bool:
        if not self._standing.is_answer:
            return self._ask("contains", key) is True
        return any(item is key or item == key for item in self)

    def __len__(self) -> int:
        length = self._ask("length")
        if not isinstance(length, int) or not 0 <= length <= _MAX_LENGTH:
            raise TypeError("the program's object has no sane length")
        return length

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iterate")
        if not isinstance(iterator, RemoteIterator):
            raise TypeError(f"the program's object ({self._name}) gives no iterator")
        return iterator


class RemoteIterator(Remote):
    """An iterator or generator of the candidate, pulled one value at a time."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._ask("next")
