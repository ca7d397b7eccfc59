"""A clock that is set during a run: durations are what passed, and times of day are in order."""

import itertools
import json
import math
import time

import pytest

from pytest_longctx import cli
from pytest_longctx.processes import clock

HOUR_S = 3600.0
SETTINGS = {
    "back": lambda index: -HOUR_S * index,
    "forward": lambda index: HOUR_S * index,
    "to and fro": lambda index: HOUR_S * (-1) ** index,
}


@pytest.fixture(params=SETTINGS)
def jumping(request, monkeypatch):
    """Each look at the time of day comes after the clock was set by an hour or more."""
    real, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: max(1.0, real() + SETTINGS[request.param](next(looks) % 1000)))


@pytest.mark.timeout(120)
def test_a_run_is_as_long_as_it_was_when_the_clock_is_set(jumping, run):
    began_s = time.monotonic()
    done = run("--backend=miniature", "-m", "smoke", "--longctx-report=report.html", "--junitxml=report.xml")
    whole_s = time.monotonic() - began_s
    assert done.outcome.ret == 0
    found = done.results
    assert {row["verdict"] for row in found.verdicts} == {"holds"}
    assert found.requests
    for row in found.requests:
        assert 0 <= row["ended_s"] - row["started_s"] <= whole_s
    stamps = [row["started_s"] for row in (*found.boots, *found.requests)] + [row["ended_s"] for row in found.requests]
    assert max(stamps) - min(stamps) <= whole_s + 0.01
    assert all(0 <= boot["seconds"] <= whole_s for boot in found.boots)
    figures = [
        value
        for row in found.verdicts
        for name, value in row["measured"].items()
        if name.endswith("_s") and "per_s" not in name
    ]
    assert figures
    assert all(0 <= value <= whole_s and math.isfinite(value) for value in figures)
    samples = [row["at_s"] for row in found.vitals]
    assert samples == sorted(samples)
    assert (done.folder / "report.html").stat().st_size


def test_an_export_says_how_long_a_workload_took_when_the_clock_is_set(jumping, run, capsys):
    done = run("--backend=miniature", "-m", "smoke")
    rows = done.folder / "results" / "results.jsonl"
    capsys.readouterr()
    assert cli.main(["report", str(rows), "--format=llm-d", "-o", str(done.folder / "out")]) == 0
    made = [json.loads(path.read_text(encoding="utf-8")) for path in (done.folder / "out").glob("*.json")]
    assert made
    assert '"PT-' not in json.dumps(made)


def test_a_time_of_day_does_not_jump(jumping):
    began_s = time.monotonic()
    before_s = clock.unix_s()
    for _ in range(20):
        now_s = clock.unix_s()
        assert 0 <= now_s - before_s <= time.monotonic() - began_s + 0.01
