"""Results files with wrong rows: each reader works, or says which line is wrong; it raises nothing else."""

import copy
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_longctx import cli
from pytest_longctx.errors import LongctxError, ResultsError
from pytest_longctx.reports import html, results, resume
from pytest_longctx.reports.compare import compare, on_equal_terms, page
from tests.hostile import EXAMPLES
from tests.unit import factories

GOOD = [
    {"kind": "header", "schema": 1, "started": "2026-01-02T03:04:05+00:00", "backend": "vllm", "arguments": ["a"]}
    | {"options": ["--backend=vllm"], "conditions": {"longctx": "1"}, "seed": 7, "root": "/x", "machine": {"cpu": "x"}},
    factories.booted(
        figures={"concurrency": 2.0, "kv_cache_tokens": 4096.0, "weights_gib": 1.0},
        predicted={"concurrency": 2.1, "longest_tokens": 100, "terms": [{"name": "w", "host": False, "size_bytes": 5}]},
        started_s=1.7e9,
        words={"a": "b"},
    ),
    {"kind": "request", "test": "t", "deployment": "tiny", "started_s": 1.7e9, "ended_s": 1.7e9 + 5, "ttft_s": 1.0},
    {
        "kind": "vitals",
        "deployment": "tiny",
        "at_s": 1.7e9,
        "figures": {"device_memory_gib": [1.0, None], "running": 1},
    },
    {"kind": "vitals", "deployment": "tiny", "at_s": 1.7e9 + 1, "figures": {}, "said": "gone"},
    {"kind": "retrieval", "test": "t", "deployment": "tiny", "prompt_tokens": 100, "depth": 0.5, "score": 1.0},
    {
        "kind": "drift",
        "test": "t",
        "finding": "TT-0001",
        "deployment": "tiny",
        "against": "other",
        "from_tokens": 1,
        "to_tokens": 16,
        "drift_nats": 1e-3,
        "noise_nats": 0.0,
        "argmax_changed": 0.01,
    },
    {**factories.verdict(ttft_s=1.0, prompt_tokens=1000.0), "outcome": "passed"},
    {
        **factories.verdict(word="broken", ttft_s=2.0, prompt_tokens=2000.0),
        "bounds": {"ttft_s": {"reference": 1.0, "tolerance": "10%"}},
    },
    {"kind": "footer", "finished": "2026-01-02T03:05:05+00:00", "exit_code": 0, "verdicts": {"holds": 1}}
    | {"shard": {"shard": "1/1", "split": "x"}},
]
HUGE = int("9" * 400)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**63, HUGE, -HUGE, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), 10**19]),
    st.sampled_from(["", "\ud800", "\x00", "::error::x", "\x1b[2J", "٣", "</script>", "x" * 5000, "1e999", "../../x"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers() | st.none() | st.floats(), max_size=2),
    st.floats(),
    st.text(max_size=8),
)


def places(value, at=()):
    yield at
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*at, key))


PLACES = [at for at in places(GOOD) if len(at) > 1]


def changed(changes):
    rows: Any = copy.deepcopy(GOOD)
    for at, value, gone in changes:
        inside = rows
        for key in at[:-1]:
            there = isinstance(inside, list) or (isinstance(inside, dict) and key in inside)
            inside = inside[key] if there else None
        if isinstance(inside, dict):
            inside.pop(at[-1], None) if gone else inside.__setitem__(at[-1], value)
    return rows


def read_everywhere(path, good):
    """Every reader of a results file."""
    found = results.read(path)
    html.write(found, path.with_suffix(".html"))
    before, after = on_equal_terms(good, found)
    "\n".join(page(before, after, compare(before, after), []))
    results.merge({"one": found})
    earlier = resume.read(path)
    assert earlier is not None
    for file in earlier.files:
        for key in file.verdicts:
            list(earlier.with_its_own(*key))


def written(folder, rows):
    path = folder / "results.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def test_the_rows_are_sound_before_they_are_changed(folder):
    path = written(folder, GOOD)
    read_everywhere(path, results.read(path))


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES, st.booleans()), min_size=1, max_size=3))
def test_a_wrong_row_is_an_error_of_the_package_or_no_error(folder, changes):
    good = results.read(written(folder, GOOD))
    path = written(folder, changed(changes))
    try:
        read_everywhere(path, good)
    except LongctxError as problem:
        assert len(str(problem)) < 2000  # noqa: PT017


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[" * 500_000, "nested too deeply"),
        *(
            ('{"kind": "request", "x": ' + "[" * depth + "]" * depth + "}", "nested too deeply")
            for depth in (600, 50_000)
        ),
        ('{"kind": "verdict", "test": ' + "9" * 5000 + "}", "digits|lacks"),
        ('{"kind": "vitals", "at_s": NaN, "figures": {}}', "line 2: at_s"),
        ('{"kind": "vitals", "at_s": 1e400, "figures": {}}', "line 2: at_s"),
        ('{"kind": "request", "deployment": [], "started_s": 1, "ended_s": 2}', "line 2: deployment"),
        (
            '{"kind": "drift", "from_tokens": 1, "to_tokens": 2, "drift_nats": -1, "noise_nats": 0, "argmax_changed": 0}',
            "line 2: drift_nats",
        ),
        ('{"kind": "retrieval", "prompt_tokens": 1.5, "depth": 2, "score": 1}', "line 2: prompt_tokens"),
    ],
)
def test_a_wrong_line_is_named(folder, line, complaint):
    path = folder / "results.jsonl"
    rows = [json.dumps(GOOD[0]), line, json.dumps(GOOD[-1])]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(ResultsError, match=complaint):
        results.read(path)


@pytest.mark.parametrize("source", ["pipe", "/dev/zero", "folder"])
def test_an_input_that_may_have_no_end_is_refused(tmp_path, source, capsys):
    path = tmp_path / "results.jsonl"
    if source == "pipe":
        os.mkfifo(path)
    elif source == "folder":
        path.mkdir()
    else:
        path.symlink_to(source)
    assert cli.main(["report", str(path)]) == 2
    assert "must be a regular file" in capsys.readouterr().err
