"""Text that a careless pattern takes minutes for: each reader of foreign text is linear, or reads a limited part."""

import re

import pytest

from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.exchange import Refusal
from pytest_longctx.diagnosis import good_boots, tracebacks
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.redaction import shown
from pytest_longctx.reports import causes

LINE_BYTES = 64 * 1024
"""Longest line of a log that is read."""
UNITS = (
    "a",
    "\n",
    " ",
    " \n",
    '" ("',
    "a: ",
    'a="x" ',
    "a=[",
    "http://",
    "?a&",
    "##",
    "--a ",
    "api_key=",
    "'a': '",
    "\\",
)
PUMPS = {repr(unit): unit * (LINE_BYTES // len(unit)) for unit in UNITS}
LINES = {
    "a line of Go with many fields": 'time=2026-01-01T00:00:00Z level=INFO msg="x" ' + 'a="x" ' * 60 + 'b="x"',
    "blanks before nothing": " " * LINE_BYTES + "x",
    "a dump of arguments without an end": "non-default args: {" + "a=[" * (LINE_BYTES // 3),
    "a word as arguments": "non-default args: " + "a" * LINE_BYTES,
    **PUMPS,
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", LINES)
def test_a_line_of_a_log_takes_no_minutes(name):
    for backend in (Vllm(), Sglang()):
        reader = LogReader(backend.catalogue)
        for line in (LINES[name], f"ERROR {LINES[name]}", f"ValueError: {LINES[name]}"):
            reader.feed(line.replace("\n", "\v"))
    tracebacks.FRAME.match(LINES[name])
    list(good_boots._ONE.finditer(LINES[name]))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", PUMPS)
def test_text_of_a_server_takes_no_minutes(name):
    assert shown(PUMPS[name])
    assert len(Refusal.read(400, PUMPS[name]).text) <= 500
    assert causes.missed(PUMPS[name]) == []
    assert isinstance(causes.quoted(PUMPS[name]), str)


def test_an_argument_of_a_dump_is_read_as_before():
    dump = "{'model': 'm', 'compilation_config': {\"level\": 3}, 'sizes': [1, 2], 'port': 8000, trust=True}"
    found = {each["name"]: each["value"].strip() for each in good_boots._ONE.finditer(dump)}
    assert found["sizes"] == "[1, 2]"
    assert found["model"] == "'m'"
    assert found["port"] == "8000"
    assert re.fullmatch(r"True", found["trust"])
