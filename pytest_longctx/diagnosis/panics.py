"""Panics of Rust, whose message stands in the line after their place."""

import re
from dataclasses import replace

from pytest_longctx.diagnosis.boot_state import Boot
from pytest_longctx.diagnosis.parsing.records import Record

_PANIC = re.compile(r"^\s*thread '[^']*' (?:\(\d+\) )?panicked at ")
_PLACE = re.compile(r"panicked at \S+:\d+:\d+:\s*$")


def whole(boot: Boot, record: Record) -> Record:
    """*record*, a line of the boot's log, without an indentation if a panic begins in it; its message is joined to its place."""
    place, boot.panic = boot.panic, None
    if place is not None and record.text.strip():
        line = place.whole.strip()
        boot.summary = None if boot.summary is not None and boot.summary.line == line else boot.summary
        boot.errors.native = None if boot.errors.native == line else boot.errors.native
        text = record.text.strip()
        return replace(place, text=f"{place.text} {text}", line=f"{place.whole.rstrip()} {text}")
    if _PANIC.match(record.text) is None:
        return record
    begun = replace(record, text=record.text.strip())
    boot.panic = begun if _PLACE.search(begun.text) else None
    return begun
