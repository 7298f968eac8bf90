"""The candidate at its end of the socket, writing what it likes. All it can achieve is to have returned something."""

from __future__ import annotations

import pytest

from problems.problem import Limits
from sandbox import Outcome

from .conftest import ERROR, OUTPUT, TIME, WRONG, Assault

# Finds the socket to the judge, as the number 3 or by search.
HEAD = """
import json, os, socket, stat, struct, sys, threading, time
def channel():
    for fd in range(3, 100):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode): return fd
        except OSError: pass
def turn():  # the number of the request that is being answered, from the harness' own frame
    at = sys._getframe()
    while at and "sequence" not in at.f_locals: at = at.f_back
    return at.f_locals["sequence"] if at else 1
def frame(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    os.write(channel(), struct.pack(">I", len(data)) + data)
"""
IN_CALL = {
    "a truncated frame": "os.write(channel(), struct.pack('>I', 1000) + b'[1'); os._exit(0)",
    "an oversized length": "os.write(channel(), b'\\xff\\xff\\xff\\xff')",
    "a frame of no JSON": "frame(b'\\x80\\x04\\x95PASSED')",
    "a pickle": "import pickle; frame(pickle.dumps(os.system))",
    "a deep frame": "frame(b'[' * 100_000 + b']' * 100_000)",
    "a deep value": "frame(('[%d, \"returned\", ' % turn() + '{\"t\":[' * 5000 + ']}' * 5000 + ', []]').encode())",
    "a null": "frame(None)",
    "a number": "frame(7)",
    "an empty list": "frame([])",
    "another sequence number": "frame([10**9, 'returned', 2, []])",
    "a verdict": "frame({'outcome': 'passed'})",
    "an unknown kind": "frame([turn(), 'passed', 1, 1])",
    "an unknown tag": "frame([turn(), 'returned', {'zz': 1}, []])",
    "two tags": "frame([turn(), 'returned', {'t': [], 'd': []}, []])",
    "no tag": "frame([turn(), 'returned', {}, []])",
    "an odd dictionary": "frame([turn(), 'returned', {'d': [1]}, []])",
    "an unhashable key": "frame([turn(), 'returned', {'d': [[], 1]}, []])",
    "a handle of no number": "frame([turn(), 'returned', {'h': ['x', 'object', 'y']}, []])",
    "a handle of a negative number": "frame([turn(), 'returned', {'h': [-1, 'object', 'y']}, []])",
    "a function that was never passed": "frame([turn(), 'callback', 99, [], {}])",
    "a malformed callback": "frame([turn(), 'callback', [], 1, 2])",
    "a malformed exception": "frame([turn(), 'raised', 7, 8])",
    "an exception of no known class": "frame([turn(), 'raised', ['Passed'], 'x'])",
    "an assertion": "frame([turn(), 'raised', ['AssertionError'], 'x'])",
    "a change of what was not passed": "frame([turn(), 'returned', 3, [[99, 2]]])",
    "a change that is none": "frame([turn(), 'returned', 3, ['x', {}]])",
    "a bad decimal": "frame([turn(), 'returned', {'x': ['decimal', 'x']}, []])",
    "a range without end": "frame([turn(), 'returned', {'x': ['range', '0x0', '0x' + 'f' * 9999, '0x1']}, []])",
    "an unknown value type": "frame([turn(), 'returned', {'x': ['os.system', 'true']}, []])",
    "a type of no name": "frame([turn(), 'returned', {'x': ['type', '__import__']}, []])",
    "a huge integer": "frame([turn(), 'returned', {'i': '0x' + 'f' * 3_000_000}, []])",
    "digits without end": "frame(('[%d, \"returned\", ' % turn() + '9' * 1_000_000 + ', []]').encode())",
}  # fmt: skip


NOTICED = {ERROR, WRONG, OUTPUT}  # at once: no limit of time or memory has to end it


@pytest.mark.parametrize("name", IN_CALL)
def test_a_forged_answer_is_an_answer_at_most(assault: Assault, name: str) -> None:
    assault(f"{HEAD}\ndef f(x):\n    {IN_CALL[name]}\n    time.sleep(30)", expect=NOTICED)


@pytest.mark.parametrize("name", IN_CALL)
def test_a_forged_frame_while_loading_is_no_pass(assault: Assault, name: str) -> None:
    assault(f"{HEAD}\n{IN_CALL[name]}\ndef f(x): return x + 1", expect={ERROR, OUTPUT})


def test_answers_in_advance_are_a_protocol_violation(assault: Assault) -> None:
    program = f"{HEAD}\nframe(['loaded'])\nfor i in range(1, 9): frame([i, 'returned', i + 1, []])\ntime.sleep(30)"
    for verdict in assault(program, expect=ERROR):
        assert {"early-frame", "forged-frame"} & set(verdict.signs)


def test_surplus_answers_are_a_protocol_violation(assault: Assault) -> None:
    program = f"{HEAD}\ndef f(x):\n    for _ in range(3): frame([turn(), 'returned', x + 1, []])\n    time.sleep(30)"
    for verdict in assault(program, expect=ERROR):
        assert {"early-frame", "forged-frame"} & set(verdict.signs)


def test_a_forged_answer_of_the_right_value_is_just_an_answer(assault: Assault) -> None:
    program = f"{HEAD}\ndef f(x):\n    frame([turn(), 'returned', x + 1, []])\n    os._exit(0)"
    assault(program, "assert f(1) == 2", expect=Outcome.PASSED)
    assault(program, "assert f(1) == 2", "assert f(2) == 3", expect=ERROR)


def test_a_flood_of_frames_harms_nobody(assault: Assault) -> None:
    flood = f"{HEAD}\ndef f(x):\n    while True: os.write(channel(), b'\\0' * 65536)"
    assault(flood, expect=NOTICED)


def test_a_thread_that_answers_meanwhile_gives_no_pass(assault: Assault) -> None:
    program = f"""{HEAD}
def chatter():
    while True: frame([1, 'returned', 2, []])
threading.Thread(target=chatter, daemon=True).start()
def f(x): return x + 1
"""
    assault(program, expect=NOTICED)


def test_descriptors_sent_over_the_socket_go_nowhere(assault: Assault) -> None:
    program = f"""{HEAD}
def f(x):
    link = socket.socket(fileno=channel())
    for _ in range(50):
        socket.send_fds(link, [b'x'], [0, 1, 2])
    time.sleep(30)
"""
    assault(program, expect=NOTICED)


def test_a_handle_used_as_the_number_of_another_object_is_the_programs_own_affair(assault: Assault) -> None:
    """Handles name objects of the candidate: a forged one can only name another of them."""
    program = (
        f"{HEAD}\ndef f(x):\n    frame([turn(), 'returned', {{'h': [4, 'iterator', 'list']}}, []])\n    os._exit(0)"
    )
    assault(program, "assert list(f(1)) == [2]", expect=ERROR)


@pytest.mark.parametrize(
    "value",
    [
        "['datetime', '2020-01-01T00:00:00+00:00']", "['time', '01:00:00+00:00']", "['dict_keys', [1, 2]]",
        "['dict_values', [1, [2]]]", "['dict_items', [{'t': [1, 2]}]]", "['deque', [1]]", "['type', 'map']",
        "['ordered', [1, 2]]", "['timedelta', 1, 2, 3]", "['timedelta', 1e308]", "['decimal', 'sNaN']",
        "['range', '0x1', '0x2', '0x3']", "['fraction', '0x1', '0x0']",
    ],
)  # fmt: skip
def test_a_value_that_comes_in_can_go_out_again(assault: Assault, value: str) -> None:
    """A test may pass on what it was given. If that could not cross, the program had chosen an infrastructure error."""
    answer = f"frame([turn(), 'returned', {{'x': {value}}}, []])"
    program = f"{HEAD}\ndef f(x):\n    if x == 1: {answer}; time.sleep(9)\n    return 0"
    assault(program, "assert f(f(1)) == 2", expect={WRONG, ERROR, TIME}, limits=Limits(wall_s=3.0))


def test_a_forged_nest_that_is_passed_on_is_no_way_out(assault: Assault) -> None:
    deep = "('[%d, \"returned\", ' % turn() + '[' * 300 + ']' * 300 + ', []]').encode()"
    program = f"{HEAD}\ndef f(x):\n    frame({deep}); time.sleep(9)"
    assault(program, "assert f(f(1)) == 2", expect=NOTICED, limits=Limits(wall_s=3.0))


@pytest.mark.parametrize("then", ["os._exit(0)", "time.sleep(30)"])
@pytest.mark.parametrize("ancillary", ["[]", "[(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [3]))]"])
def test_urgent_data_is_no_way_to_stop_the_judge(assault: Assault, ancillary: str, then: str) -> None:
    """It makes a socket readable and cannot be read; the socket within itself is not closed by the program's end."""
    program = f"import array\n{HEAD}\nframe(['loaded'])\nlink = socket.socket(fileno=channel())"
    program += f"\nlink.sendmsg([b'x'], {ancillary}, socket.MSG_OOB)\n{then}"
    assault(program, expect={ERROR, TIME}, limits=Limits(wall_s=2.0))
