"""Typed plain data on the socket between judge and candidate. Never pickle.

A frame is a length (4 bytes, big endian) and JSON. JSON's own null, booleans, strings, floats and lists stand for
themselves, and so do small integers; everything else is an object with one key, its tag:

    {"i": "0x.."} large int     {"t": [..]} tuple        {"d": [k, v, ..]} dict     {"s": [..]} set
    {"z": [..]} frozenset       {"b": "ff"} bytes        {"B": "ff"} bytearray      {"c": [re, im]} complex
    {"x": [kind, ..]} a value type of the standard library (Decimal, date, range, ...)
    {"h": [id, kind, name]} an object that stays where it is      {"q": id} a function of the test

The judge decodes what a candidate wrote, so decoding trusts nothing: sizes and counts are capped, depth is JSON's own
recursion guard, and whatever is not as above is a WireError.
"""

# Values of any type pass through here, so strict typing has nothing to hold on to.
# pyright: basic

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import json
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

MAX_DEPTH = 200
MAX_VALUES = 4_000_000
MAX_TEXT = 200
_SMALL_INT = 1 << 62
_LENGTH = struct.Struct(">I")
_to_json = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode

_EMPTY: dict[Any, Any] = {}
# Views of a dict are made again over a dict of the reader's own.
_VIEWS: dict[type, Callable[[list[Any]], Any]] = {
    type(_EMPTY.keys()): lambda items: dict.fromkeys(items).keys(),
    type(_EMPTY.values()): lambda items: dict(enumerate(items)).values(),
    type(_EMPTY.items()): lambda items: dict(items).items(),
}
_VIEW_READERS = {kind.__name__: make for kind, make in _VIEWS.items()}

# Types that a test may hand to a program, or a program return.
_TYPES: dict[type, str] = {kind: name for name, kind in vars(builtins).items() if isinstance(kind, type)}
_TYPES_BY_NAME = {name: kind for kind, name in _TYPES.items()}

PLAIN = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, collections.deque)

Special = Callable[[Any], Any]


class WireError(Exception):
    """The other side wrote something that is not the protocol."""


class FrameTooLargeError(WireError):
    """A frame is larger, or holds more values, than may be."""


class PeerGoneError(WireError):
    """The other side has closed its end."""


def _items(value: Any) -> list[Any]:
    pairs = cast("list[tuple[Any, Any]]", list(dict.items(cast("dict[Any, Any]", value))))
    return [part for pair in pairs for part in pair]


def _parts(base: Any, value: Any) -> Iterator[Any]:
    """The parts of a subclass's object, by the method of its base."""
    return base.__iter__(value)


def _timedelta(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _fraction(top: str, bottom: str) -> fractions.Fraction:
    return fractions.Fraction(int(top, 16), int(bottom, 16))


def _naive(value: Any) -> Any:
    """A test may hand on what it was given, and what knows of time zones could not go back."""
    if value.tzinfo is not None:
        raise ValueError("a time with a zone")
    return value


# Exact type -> how it is written. Types of the standard library that tests compare by value.
_VALUE_TYPES: dict[type, Callable[[Any], list[Any]]] = {
    decimal.Decimal: lambda value: ["decimal", str(value)],
    fractions.Fraction: lambda value: ["fraction", hex(value.numerator), hex(value.denominator)],
    datetime.date: lambda value: ["date", value.isoformat()],
    datetime.timedelta: lambda value: ["timedelta", *_timedelta(value)],
    range: lambda value: ["range", hex(value.start), hex(value.stop), hex(value.step)],
}
_VALUE_READERS: dict[str, Callable[..., Any]] = {
    "decimal": decimal.Decimal,
    "fraction": _fraction,
    "date": datetime.date.fromisoformat,
    "datetime": lambda text: _naive(datetime.datetime.fromisoformat(text)),
    "time": lambda text: _naive(datetime.time.fromisoformat(text)),
    "timedelta": datetime.timedelta,
    "range": lambda *parts: range(*(int(part, 16) for part in parts)),
}


def _is_naive(value: Any) -> bool:
    return value.tzinfo is None


class Encoder:
    """Python values -> JSON values. ``special`` writes what is not plain data, or raises TypeError.

    ``is_exact``: an object of a subclass of a plain type is not plain data either. A test's argument would lose what
    makes it more; what a program returns is taken as the plain value that it holds, and can say nothing else.
    """

    def __init__(self, special: Special, *, is_exact: bool = False) -> None:
        self._special = special
        self._is_exact = is_exact

    def encode(self, value: Any, depth: int = 0) -> Any:
        """The JSON value. Raises TypeError where ``special`` does, WireError beyond MAX_DEPTH."""
        kind: Any = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -_SMALL_INT < value < _SMALL_INT else {"i": hex(value)}
        if depth > MAX_DEPTH:
            raise WireError("a value is nested too deeply")
        depth += 1
        if kind is list:
            return [self.encode(item, depth) for item in value]
        if kind is tuple:
            return {"t": [self.encode(item, depth) for item in value]}
        if kind is dict:
            return {"d": [self.encode(item, depth) for item in _items(value)]}
        return self._rarer(value, kind, depth)

    def _rarer(self, value: Any, kind: Any, depth: int) -> Any:
        if kind is set or kind is frozenset:
            return {"s" if kind is set else "z": [self.encode(item, depth) for item in value]}
        if kind is bytes or kind is bytearray:
            return {"b" if kind is bytes else "B": value.hex()}
        if kind is complex:
            return {"c": [value.real, value.imag]}
        if kind in _VALUE_TYPES:
            return {"x": _VALUE_TYPES[kind](value)}
        if kind in (datetime.datetime, datetime.time) and _is_naive(value):
            return {"x": [kind.__name__, value.isoformat()]}
        if kind is type and value in _TYPES:
            return {"x": ["type", _TYPES[value]]}
        if kind is collections.deque:
            return {"x": ["deque", [self.encode(item, depth) for item in value], value.maxlen]}
        if kind is collections.Counter:
            return {"x": ["counter", [self.encode(item, depth) for item in _items(value)]]}
        if kind is collections.defaultdict and (value.default_factory is None or value.default_factory in _TYPES):
            factory = self.encode(value.default_factory, depth)
            return {"x": ["defaultdict", factory, [self.encode(item, depth) for item in _items(value)]]}
        if kind is slice:
            return {"x": ["slice", [self.encode(item, depth) for item in (value.start, value.stop, value.step)]]}
        if kind in _VIEWS:
            return {"x": [kind.__name__, [self.encode(item, depth) for item in value]]}
        if kind is collections.OrderedDict:
            return {"x": ["ordered", [self.encode(item, depth) for item in _items(value)]]}
        return self._special(value) if self._is_exact else self._subclass(value, depth)

    def _subclass(self, value: Any, depth: int) -> Any:
        """A subclass of a plain type goes as the plain value, read by the plain type's own methods."""
        if isinstance(value, int):
            return self.encode(int.__index__(value), depth)
        if isinstance(value, float):
            return self.encode(float.__float__(value), depth)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, list):
            return [self.encode(item, depth) for item in _parts(list, value)]
        if isinstance(value, tuple):
            return {"t": [self.encode(item, depth) for item in _parts(tuple, value)]}
        if isinstance(value, dict):
            return {"d": [self.encode(item, depth) for item in _items(value)]}
        if isinstance(value, set | frozenset):
            tag, base = ("s", set) if isinstance(value, set) else ("z", frozenset)
            return {tag: [self.encode(item, depth) for item in _parts(base, value)]}
        return self._special(value)


class Decoder:
    """JSON values -> Python values. ``special(tag, body)`` makes what is not plain data."""

    def __init__(self, special: Callable[[str, Any], Any]) -> None:
        self._special = special

    def decode(self, value: Any) -> Any:
        """The Python value. Raises WireError for whatever is not the protocol."""
        try:
            return self._decode(value)
        except WireError:
            raise
        except (TypeError, ValueError, ArithmeticError, RecursionError, LookupError, AttributeError) as error:
            raise WireError(f"a malformed value: {type(error).__name__}") from None

    def _decode(self, value: Any) -> Any:
        kind: Any = type(value)
        if kind is list:
            return [self._decode(item) for item in value]
        if kind is not dict:
            return value
        ((tag, body),) = value.items()
        if tag == "t":
            return tuple([self._decode(item) for item in body])
        if tag == "d":
            parts = [self._decode(item) for item in body]
            return dict(zip(parts[::2], parts[1::2], strict=True))
        if tag == "s":
            return {self._decode(item) for item in body}
        if tag == "i":
            return int(body, 16)
        return self._decode_rarer(tag, body)

    def _decode_rarer(self, tag: str, body: Any) -> Any:
        if tag == "z":
            return frozenset(self._decode(item) for item in body)
        if tag == "b":
            return bytes.fromhex(body)
        if tag == "B":
            return bytearray.fromhex(body)
        if tag == "c":
            real, imaginary = body
            return complex(float(real), float(imaginary))
        if tag == "x":
            return self._decode_value_type(*body)
        return self._special(tag, body)

    def _pairs(self, parts: Any) -> dict[Any, Any]:
        items = [self._decode(item) for item in parts]
        return dict(zip(items[::2], items[1::2], strict=True))

    def _decode_value_type(self, kind: str, *parts: Any) -> Any:
        if kind == "deque":
            return collections.deque((self._decode(item) for item in parts[0]), parts[1])
        if kind == "counter":
            return collections.Counter(self._pairs(parts[0]))
        if kind == "defaultdict":
            factory = self._decode(parts[0])
            if factory is not None and factory not in _TYPES:
                raise WireError("a default factory that is no plain type")
            return collections.defaultdict(factory, self._pairs(parts[1]))
        if kind == "slice":
            return slice(*(self._decode(item) for item in parts[0]))
        if kind == "type":
            return _TYPES_BY_NAME[parts[0]]
        if kind in _VIEW_READERS:
            return _VIEW_READERS[kind]([self._decode(item) for item in parts[0]])
        if kind == "ordered":
            return collections.OrderedDict(self._pairs(parts[0]))
        return _VALUE_READERS[kind](*parts)


def text_of(error: BaseException) -> str:
    """The beginning of what it says; nothing where it does not come to say it, as of a number of too many digits."""
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:  # noqa: BLE001 - a program's own __str__
        return ""


def read_exactly(fd: int, size: int) -> bytes:
    """``size`` bytes. Raises PeerGoneError at the end of the stream."""
    chunk = os.read(fd, size)
    if len(chunk) == size:
        return chunk
    parts = bytearray(chunk)
    while len(parts) < size:
        if not chunk:
            raise PeerGoneError
        chunk = os.read(fd, min(size - len(parts), 1 << 20))
        parts += chunk
    return bytes(parts)


def write_all(fd: int, data: bytes) -> None:
    """Writes everything. Raises PeerGoneError where nobody reads any more."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except (BrokenPipeError, ConnectionResetError):
        raise PeerGoneError from None


def send_frame(fd: int, message: Any) -> int:
    """Sends one frame; the number of bytes sent."""
    payload = _to_json(message).encode()
    write_all(fd, _LENGTH.pack(len(payload)) + payload)
    return len(payload)


def receive_frame(fd: int, max_bytes: int) -> tuple[Any, int]:
    """One frame and its size in bytes. Raises PeerGoneError, FrameTooLargeError or WireError."""
    try:
        (size,) = _LENGTH.unpack(read_exactly(fd, _LENGTH.size))
        if size > max_bytes:
            raise FrameTooLargeError(f"a frame of {size} bytes")
        payload = read_exactly(fd, size)
    except ConnectionResetError:
        raise PeerGoneError from None
    # Counted before parsing: each value costs the reader some fifty bytes, however short it is on the wire.
    if size > MAX_VALUES and payload.count(b",") + payload.count(b"[") + payload.count(b"{") > MAX_VALUES:
        raise FrameTooLargeError("a frame holds too many values")
    try:
        return json.loads(payload), size
    except (ValueError, RecursionError):
        raise WireError("a frame is no JSON") from None
