"""A log gives the same result in any chunks, and the fast filter finds what the slow search finds."""

from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_longctx.diagnosis import line_shapes
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing.lines import LONGEST_LINE, Lines
from pytest_longctx.registry import BACKENDS, load
from tests.unit.recorded_logs import BENIGN, FAILURES, TORCH

NAMES = ("vllm", "sglang", "vllm-neuron")
CATALOGUES = {name: load(BACKENDS[name])().catalogue for name in NAMES}
SERVING = ["INFO:     Application startup complete.", "The server is fired up and ready to roll!"]
STOPPED = ["[shutdown] API server: shutdown triggered", "SIGTERM received. signum=15"]
DULL = [
    "(APIServer pid=1) INFO 11-20 23:13:12 [loggers.py:335] Engine 000: Avg prompt throughput: 0.0 tokens/s, Running: 0 reqs",
    'INFO:     localhost:33878 - "POST /v1/completions HTTP/1.1" 200 OK',
    "GPU KV cache size: 5,711,392 tokens",
]
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in capture_model\n    run()'
LINES = st.sampled_from(
    [*SERVING, *STOPPED, *DULL, TRACE, *(line for _, line, *_ in FAILURES), *(line for _, line in BENIGN)]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b""])
COLOURED = LINES.map(lambda line: f"\x1b[36m{line[:9]}\x1b[0m{line[9:]}")
LOGS = st.lists(
    st.tuples((LINES | COLOURED | st.text()).map(lambda text: text.encode("utf-8", "replace")) | st.binary(), ENDS)
).map(lambda parts: b"".join(part for pair in parts for part in pair))


def said(reading: LogReader) -> tuple[object, ...]:
    """Return all results of a reading."""
    return (
        *(reading.phase, reading.figures, reading.words, reading.notices, reading.cause, reading.summary),
        *(reading.errors.text, reading.errors.complaint),
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Split *data* into pieces."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("name", NAMES)
@given(data=LOGS, places=st.lists(st.integers(0, 10_000), max_size=30))
def test_where_a_log_is_cut_changes_nothing(name, data, places):
    assert said(read(cut(data, places), CATALOGUES[name])) == said(read([data], CATALOGUES[name]))


@pytest.mark.parametrize("name", NAMES)
@given(data=LOGS, served=st.booleans())
def test_the_fast_way_finds_what_the_slow_one_does(name, data, served):
    log = "\n".join([*SERVING, ""]).encode() + data if served else data
    slow, lines = LogReader(CATALOGUES[name]), Lines()
    for line in (lines.take(log) + lines.rest()).split(b"\n"):
        slow.feed(line.decode("utf-8", "replace"))
    assert said(read([log], CATALOGUES[name])) == said(slow)


@given(data=LOGS, served=st.booleans(), piece=st.integers(1, 200))
def test_the_size_of_the_pieces_that_are_passed_over_changes_nothing(data, served, piece):
    log = "\n".join([*SERVING, ""]).encode() + data if served else data
    whole = said(read([log], CATALOGUES["vllm"]))
    with patch.object(line_shapes, "_PIECE_BYTES", piece), patch.object(line_shapes, "_GROUP_BYTES", piece):
        assert said(read([log], CATALOGUES["vllm"])) == whole


def test_a_message_is_read_on_where_no_pattern_needs_its_words():
    """Its lines are dull, and of other pieces of the log than the traceback."""
    dull = "".join(f"{'zyx' * 2000} {letter}\n" for letter in "ghijklmnopqr")
    log = f"{dull}{TRACE}\nValueError: several things:\n{dull}ValueError: CUDA out of memory\n{dull}"
    slow = LogReader(CATALOGUES["vllm"])
    for line in log.splitlines():
        slow.feed(line)
    fast = read([log.encode()], CATALOGUES["vllm"])
    assert said(fast) == said(slow)
    assert fast.boot.errors.ended_at == log.count("\n")


def test_shapes_of_long_lines_take_little_memory():
    reader = LogReader(CATALOGUES["vllm"])
    for number in range(0, 400, 10):
        lines = [f"KeyError: {chr(0x4E00 + number + each) * 16_000}\n" for each in range(10)]
        reader.read("".join(lines).encode())
    assert sum(map(len, reader._shapes.known)) < 8 << 20


@pytest.mark.parametrize("name", NAMES)
@given(data=st.lists(st.binary()))
def test_no_bytes_crash_it(name, data):
    read(data, CATALOGUES[name])


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"bc", b"\xff"]), st.integers(0, 2 * LONGEST_LINE), ENDS), max_size=5),
    st.lists(st.integers(0, 10 * LONGEST_LINE), max_size=8),
)
@example([(b"a", LONGEST_LINE, b"\n")], [LONGEST_LINE])
@example([(b"a", LONGEST_LINE + 1, b"\n"), (b"bc", 3, b"\n")], [LONGEST_LINE, LONGEST_LINE + 1])
def test_a_line_is_cut_at_its_longest_wherever_the_chunks_end(parts, places):
    data = b"".join(word * times + end for word, times, end in parts)
    lines = Lines()
    found = b"".join(lines.take(piece) for piece in cut(data, places)) + lines.rest()
    *whole, last = data.replace(b"\r", b"\n").split(b"\n")
    assert found.split(b"\n")[:-1] == [line[:LONGEST_LINE] for line in [*whole, *([last] if last else [])]]


def test_memory_does_not_grow_with_a_line_that_never_ends():
    lines = Lines()
    for _ in range(20):
        lines.take(b"x" * LONGEST_LINE)
    assert len(lines._rest) <= LONGEST_LINE


def test_what_comes_very_often_is_counted_and_its_last_figures_count():
    """Lines that differ only in their numbers are not all looked at."""
    notice = BENIGN[2][1]
    lines = [f"GPU KV cache size: {number} tokens\n{notice}\n" for number in range(1000)]
    reading = read(["".join(lines).encode()], CATALOGUES["vllm"])
    assert reading.figures["kv_cache_tokens"] == 999.0
    assert sum(reading.notices.values()) == 1000


@pytest.mark.parametrize(
    "cut", ["Using max model len 20971", "Available KV cache memory: 4.5", "server version 0.25.1"]
)
def test_a_line_without_an_end_gives_no_figure(cut):
    reading = read(
        [f"INFO 11-21 10:11:40 [model.py:1776] Using max model len 1024\n{cut}".encode()], CATALOGUES["vllm"]
    )
    assert (reading.figures, reading.words) == ({"max_model_len": 1024.0}, {})


def test_sizes_may_stand_a_few_lines_later_and_no_further():
    head = "Prefill out of memory. Try to lower your batch size.\n"
    sizes = "Try to allocate 8192 tokens.\n"
    near = read([(head + "#\n" * 19 + sizes).encode()], CATALOGUES["sglang"]).cause
    far = read([(head + "#\n" * 20 + sizes).encode()], CATALOGUES["sglang"]).cause
    assert near is not None
    assert far is not None
    assert (near.metrics, far.metrics) == ({"allocation_tokens": 8192.0}, {})


def test_facts_belong_to_the_boot():
    """A line logged while serving may look like a boot fact. Only a shutdown still counts then."""
    log = f"{SERVING[0]}\n{DULL[2]}\n[shutdown] API server: shutdown triggered\n{FAILURES[0][1]}\n"
    by_line = LogReader(CATALOGUES["vllm"])
    for line in log.splitlines():
        by_line.feed(line)
    for reading in (by_line, read([log.encode()], CATALOGUES["vllm"])):
        assert (reading.figures, reading.phase, reading.failure) == ({}, "stop", None)


def test_a_server_that_never_served_is_not_excused_by_its_own_shutdown():
    """An engine that fails to boot shuts down, and may log the shutdown before the cause."""
    reading = read([f"{STOPPED[0]}\n{FAILURES[0][1]}\n".encode()], CATALOGUES["vllm"])
    assert reading.phase == "start"
    assert reading.failure is not None


@pytest.mark.parametrize("count", [3, 100, 30_000])
def test_a_failure_after_a_line_that_comes_very_often_is_not_survived(count):
    """The last of many such lines counts where it stands, and a sign of life before a failure is none after it."""
    alive = 'INFO:     127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK\n' * count
    text = f"INFO:     Application startup complete.\n{alive}ERROR {TORCH}\n"
    reading = read([text.encode()], CATALOGUES["vllm"])
    assert reading.cause is not None
    assert reading.cause.order == reading.lines == count + 2
    assert reading.boot.answered == count
    assert read([f"{text}{alive}".encode()], CATALOGUES["vllm"]).cause is None
