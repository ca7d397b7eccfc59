"""The role of a line: exception, logger's record or native output; and whether it may report a failure."""

import re

from pytest_longctx.diagnosis.parsing import quoting
from pytest_longctx.diagnosis.parsing.records import ERROR, LEVELS, Record
from pytest_longctx.diagnosis.signatures import Signature
from pytest_longctx.diagnosis.tracebacks import EXCEPTION

_COMPLAINS = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|^(?:[\w./-]+: )?(?:fatal )?error: "
    r"|^\S+(?::\d+(?::\d+)?|\(\d+\)): (?:fatal )?error: |^Fatal Python error|Segmentation fault",
    re.ASCII,
)


def is_exception(record: Record, text: str) -> bool:
    """Return whether *text*, a line outside a traceback, has the role of an exception."""
    return EXCEPTION.match(text) is not None and (record.level is None or record.level >= ERROR)


def counts(signature: Signature, record: Record, text: str, at: int, *, exception: bool) -> bool:
    """Return whether the match of *signature* at *at* counts, by role and level of the line, and outside quoted text."""
    native = record.bare or record.kinds[-1:] == ("nccl",)
    role = "exception" if exception else "native" if native else "record"
    if signature.role and role not in signature.role:
        return False
    if exception:
        return not quoting.in_string(text, at)
    if record.level is not None and record.level < LEVELS[signature.level]:
        return False
    return not quoting.quoted(text, at)


def noticed(signature: Signature, level: int | None) -> bool:
    """Return whether a logger's *level* is below the level of the lines of *signature*, so that the program continued."""
    return level is not None and level < LEVELS[signature.level]


def complains(record: Record) -> bool:
    """Return whether the line of *record* has the role of an error, by its level or its text."""
    text = record.text
    if quoting.is_request(text) or not text.strip():
        return False
    if record.level is not None and not record.bare:
        return record.level >= ERROR
    found = _COMPLAINS.search(text) or EXCEPTION.match(text)
    return found is not None and not quoting.quoted(text, found.start())
