"""
A check in the engine's own code, or in native code below it, that failed: the class of a failure that no signature names.

An assertion is a fact of its own: the program found itself in a state that its authors excluded. Which change avoids it
stands in no rule; the line of code that failed is quoted.
"""

import re
from collections.abc import Iterable
from typing import Final

from pytest_longctx.diagnosis.boot_state import Boot
from pytest_longctx.diagnosis.tracebacks import FRAME, Trace

DOUBT: Final = (
    "the check that failed is known, and not why: a fault of this version, or a combination that it is not made for"
)
REMEDY: Final = (
    "the check that is quoted, in the issues of the component that its file belongs to; meanwhile another release, or a start "
    "without the feature that its file or its words name (speculative decoding, a connector, a type of the cache, a backend)"
)

_NATIVE: Final = re.compile(
    r"\bGGML_ASSERT\(|\bGGML_ABORT\b|: Assertion [`'].*' failed|\bAssertion fail(?:ed|ure)?: |\bCheck failed: |TLLM_CHECK"
    r"|\bAssertion error (?:\(|\S+:\d)|\bINTERNAL ASSERT FAILED\b"
    r"|/ggml[\w/.-]*\.(?:c|cpp|cu|cuh|m|h):\d+: (?!\S+ (?:error|[Ff]ailure)\b)"
)
"""What native code of an engine says of a check that failed."""
_PYTHON: Final = re.compile(r"^(?:\w+\.)*AssertionError\b")
_OF_A_SCRIPT: Final = re.compile(r'File "<(?:stdin|string)>"|, in <module>')
"""Frames of a program that uses the engine, in which an assertion is not the engine's."""
_CHECK: Final = re.compile(r"\s*assert (?:(?:isinstance|len|hasattr)\(|[^(]|(?<!\w)\()+$")
"""A check that calls nothing of the program, in which another exception could have been raised."""


def failed_check(boot: Boot) -> str | None:
    """
    The check that failed, as the first error of the *boot*'s log has it or as the engine's own summary quotes it, with its line
    of code where the exception has no words; None if that error is no failed check.
    """
    errors = boot.errors
    if errors.text is not None:
        if _NATIVE.search(errors.text):
            return errors.text
        return _of_python(errors.text, errors.before) if _PYTHON.match(errors.text) else None
    because = boot.summary.words.get("because", "") if boot.summary is not None else ""
    if _PYTHON.match(because):
        return because
    said = (errors.native, errors.complaint)
    native = next((line for line in said if line is not None and _NATIVE.search(line)), None)
    return native or _cut_short(boot.traces.values())


def _cut_short(traces: Iterable[Trace]) -> str | None:
    """The check on which one of the *traces* stops whose exception is not in the log, with its frame; None if there is none."""
    for trace in traces:
        frame = next((number for number, line in enumerate(trace.tail) if line == trace.frame), None)
        if trace.done or trace.caught or frame is None or _OF_A_SCRIPT.search(trace.frame):
            continue
        code = trace.tail[frame + 1 : frame + 2]
        if code and _CHECK.match(code[0]):
            return f"{code[0].strip()}, {trace.frame.strip()}"
    return None


def _of_python(text: str, before: tuple[str, ...]) -> str | None:
    """The failed assertion *text* with the last frame and code of the traceback *before* it; None if it is a script's own."""
    frame = next((line.strip() for line in reversed(before) if FRAME.match(line)), "")
    if _OF_A_SCRIPT.search(frame):
        return None
    code = next((line.strip() for line in reversed(before) if line.strip().startswith("assert ")), "")
    return ", ".join(part for part in (text, code, frame) if part)
