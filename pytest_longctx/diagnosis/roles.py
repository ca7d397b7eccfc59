"""What a line is: an exception, a record of a logger, native output; and whether it says what its words say."""

import re

from pytest_longctx.diagnosis import quoting
from pytest_longctx.diagnosis.records import ERROR, LEVELS, Record
from pytest_longctx.diagnosis.signatures import Signature
from pytest_longctx.diagnosis.tracebacks import EXCEPTION

_COMPLAINS = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|^(?:[\w./-]+: )?(?:fatal )?error: |^Fatal Python error|Segmentation fault", re.ASCII
)


def is_exception(record: Record, text: str) -> bool:
    """Whether *text* is an exception that stands outside a traceback."""
    return EXCEPTION.match(text) is not None and (record.level is None or record.level >= ERROR)


def counts(signature: Signature, record: Record, text: str, at: int, *, exception: bool) -> bool:
    """Whether the line that *signature* matches at *at* says so itself: by its writer, its level, and not as a quotation."""
    native = record.bare or record.kinds[-1:] == ("nccl",)
    role = "exception" if exception else "native" if native else "record"
    if signature.role and role not in signature.role:
        return False
    if exception:
        return not quoting.in_string(text, at)
    if record.level is not None and record.level < LEVELS[signature.level]:
        return False
    return not quoting.quoted(text, at)


def complains(record: Record) -> bool:
    """Whether *record* was logged as an error, or says it is one."""
    text = record.text
    if quoting.is_request(text) or not text.strip():
        return False
    if record.level is not None and not record.bare:
        return record.level >= ERROR
    found = _COMPLAINS.search(text)
    return found is not None and not quoting.quoted(text, found.start())
