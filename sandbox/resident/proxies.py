"""What the test code holds of the candidate: entry points, and handles of objects that are not plain data.

A handle never asks the candidate whether it equals something, what its hash is, or whether it is true: ``==`` and
``hash`` go by identity, ``bool`` refuses. So an object that is equal to everything equals nothing here.

A test that calls a function expects plain data of it: ``x in f(1)`` goes through the object's values here, and the
yes-or-no questions of plain types (``startswith``, ``issubset``) are not put to an object that may say yes to all. Of
an object whose class the test itself has called by its name, ``Trie()``, they are the very thing that is tested.
"""

# Values of any type pass through here, so strict typing has nothing to hold on to.
# pyright: basic

from __future__ import annotations

import builtins
import collections
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

from .wire import Decoder, Encoder, FrameTooLargeError, PeerGoneError, WireError, receive_frame, send_frame

BEGINS = b"."
TESTS = "tests"
"""Name of the module in which a suite runs."""
_MAX_LENGTH = 10_000_000
_PREDICATES = frozenset(
    {name for name in (*dir(str), *dir(float)) if name.startswith("is")}
    | {"startswith", "endswith"}
    | {name for name in dir(frozenset) if not name.startswith("_") and name != "copy"}
)
"""Methods of plain types that say yes or no, or that are told what a set is compared with."""


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
        self._handles: dict[int, Remote] = {}
        self._callbacks: list[Callable[..., Any]] = []
        self._encoder = Encoder(self._encode_special)
        self._decoder = Decoder(self._decode_special)
        self._asks_instance = False
        self._socket = socket.socket(fileno=descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.gone: CandidateGone | None = None
        self.num_requests = 0
        self.before_first_request: Callable[[], None] | None = None
        self.last_raised: BaseException | None = None
        self.signs: list[str] = []

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

    def request(self, operation: str, target: str | int, values: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the candidate answers, as a value, or raised as the exception that it says it raised."""
        arguments = [self._encoder.encode(value) for value in values]
        keywords = {name: self._encoder.encode(value) for name, value in named.items()}
        if self.num_requests == 0 and self.before_first_request is not None:
            self.before_first_request()
        self.num_requests += 1
        self.expect_silence()
        is_instance = target[:1].isupper() if isinstance(target, str) else self._handles[target]._is_instance
        # Not to be guessed: an answer written in advance, or left over, can then match no request.
        sequence = int.from_bytes(os.urandom(6), "big")
        self.send([sequence, operation, target, arguments, keywords])
        while True:
            reply = self.receive()
            self._asks_instance = is_instance  # a callback may have asked something else meanwhile
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
                error = kind.__new__(kind)
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
            result = self._encoder.encode(self._callbacks[number](*values, **named))
        except Exception as error:  # noqa: BLE001 - the test's own exceptions pass through the program's code
            self.send([sequence, "error", type(error).__name__, str(error)[:200]])
        else:
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
        is_of_suite = self.num_requests == 0 or kind.__module__ == TESTS
        raise UnsupportedError(what or f"an argument of type {kind.__name__}", is_of_suite=is_of_suite)

    def _decode_special(self, tag: str, body: Any) -> Any:
        if tag == "h":
            number, kind, name = body
            if not isinstance(number, int) or number < 0 or not isinstance(name, str):
                raise WireError("a malformed handle")
            if number not in self._handles:
                make = RemoteIterator if kind == "iterator" else Remote
                self._handles[number] = make(self, number, name[:50], self._asks_instance)
            return self._handles[number]
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


class Remote:
    """An object that stays with the candidate. Equality and hash are identity."""

    __slots__ = ("_channel", "_is_instance", "_name", "_number")

    def __init__(self, channel: Channel, number: int, name: str, is_instance: bool) -> None:
        """``is_instance``: made by a class that the test has called, or had from an object that was."""
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_is_instance", is_instance)

    def _ask(self, operation: str, *values: Any) -> Any:
        return self._channel.request(operation, self._number, values, {})

    def __bool__(self) -> bool:
        raise TypeError(f"the program returned an object ({self._name}) where a test wants true or false")

    def __repr__(self) -> str:
        return f"<{self._name} of the program>"

    def __str__(self) -> str:
        text = self._ask("text")
        return text if isinstance(text, str) else repr(self)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._channel.request("call", self._number, values, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _PREDICATES and not self._is_instance:
            raise AttributeError(f"the program returned an object ({self._name}) where a test wants to ask {name}()")
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delete_item", key)

    def __contains__(self, key: Any) -> bool:
        if self._is_instance:
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
