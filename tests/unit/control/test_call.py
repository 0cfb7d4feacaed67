"""The warnings of a call: what the answer's header holds."""

from __future__ import annotations

from typing import Any

from authz.control.call import Call, Principal


def call() -> Call:
    context: Any = None
    return Call(context, "PutMethod", {}, {}, b"", Principal("admin"))


def test_a_repeated_warning_is_said_once() -> None:
    made = call()
    for _ in range(2):
        made.warn("one is stored")
    made.warn("two is stored")
    assert made.warned() == "one is stored; two is stored"


def test_warnings_fit_into_a_header() -> None:
    made = call()
    for number in range(100):
        made.warn(f"{number} \r\nX-Forged: \u00fc" + "a" * 10_000)
    assert len(made.warned()) < 1100
    assert made.warned().endswith("; and 96 more")
    assert made.warned().isascii()
    assert made.warned().isprintable()


def test_a_call_without_warnings_says_nothing() -> None:
    assert call().warned() == ""
