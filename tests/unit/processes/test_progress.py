import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.processes.progress import Progress, wait_until


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "boot tiny: loading, 12.0 s of at most 10 min 00 s"),
        ({"expected_s": 70.0}, "boot tiny: loading, 12.0 s of about 70.0 s"),
        (
            {"kv_usage": 0.314, "running": 3.0},
            "boot tiny: loading, 3 running, KV 31.4%, 12.0 s of at most 10 min 00 s",
        ),
        (
            {"kv_usage": 0.0, "running": 0.0},
            "boot tiny: loading, 0 running, KV 0.0%, 12.0 s of at most 10 min 00 s",
        ),
    ],
)
def test_a_wait_says_what_is_known_of_it(more, line):
    assert str(Progress("boot tiny", "loading", 12.0, 600.0, **more)) == line


@given(st.text(max_size=90), st.integers(1, 100))
def test_a_line_that_is_written_over_fits(what, columns):
    assert len(Progress(what, "prefill", 3.0, 60.0).fitted(columns)) <= columns


def test_of_a_line_that_is_too_long_the_figures_stay():
    line = Progress("10,000,000 tokens to a-deployment", "prefill", 3.0, 60.0, 0.5, 1.0).fitted(70)
    assert line == "10,000,000 ...: prefill, 1 running, KV 50.0%, 3.00 s of at most 60.0 s"
    assert len(line) == 70


def test_a_wait_ends_with_the_first_look_that_is_enough():
    looks = iter([0, 0, 7, 8])
    assert wait_until(lambda: next(looks), 60, 0.001) == 7
    assert next(looks) == 8
    assert wait_until(lambda: 0, 60, 60, done=lambda code: code is not None) == 0


def test_a_wait_that_is_over_returns_what_was_seen_last_and_looks_at_least_once():
    looks = []
    assert wait_until(lambda: looks.append(len(looks)), 0.05, 0.01) is None
    assert len(looks) > 1
    assert wait_until(list, 0) == []
