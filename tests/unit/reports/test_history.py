import json

import pytest

from pytest_longctx import cli
from pytest_longctx.errors import ResultsError
from pytest_longctx.reports import history
from tests.unit.factories import results, verdict


def write(path, day, *rows):
    """Write a results file of one day."""
    made = results(*rows)
    lines = [{**made.header, "schema": 1, "started": f"2026-01-{day:02}T00:00:00+00:00"}, *made.verdicts, made.footer]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path):
    """A store of five runs: good, good, bad, bad, bad."""
    folder = tmp_path / "store"
    for day, ttft_s in enumerate((1.0, 1.02, 1.2, 1.3, 1.25), start=1):
        history.add(folder, write(tmp_path / "results.jsonl", day, verdict(ttft_s=ttft_s)))
    return folder


def test_the_first_bad_run_is_named(store):
    (trend,) = history.trends(store, "ttft_s")
    assert [reading.bad for reading in trend.readings] == [False, False, True, True, True]
    assert (trend.first_bad or "").startswith("20260103000000-")
    assert trend.worse_by == pytest.approx(0.25)
    assert str(trend).startswith(
        "TT-0001 tiny ttft_s: 1 -> 1.02 -> 1.2 -> 1.3 -> 1.25; now 1.25 s, +25 % worse; bad since 20260103"
    )


def test_a_run_that_recovered_is_not_bad(store, tmp_path):
    history.add(store, write(tmp_path / "results.jsonl", 6, verdict(ttft_s=1.01)))
    (trend,) = history.trends(store, "ttft_s")
    assert trend.first_bad is None


def test_a_broken_finding_is_bad_whatever_its_figures(store, tmp_path):
    history.add(store, write(tmp_path / "results.jsonl", 6, verdict(word="broken", ttft_s=1.0)))
    (trend,) = history.trends(store, "ttft_s")
    assert trend.readings[-1].bad


def test_the_baseline_changes_by_its_command_alone(store, tmp_path):
    assert not (store / history.BASELINE).exists()
    names = [run.name for run in history.runs(store)]
    history.set_baseline(store, names[2])
    kept = (store / history.BASELINE).read_bytes()
    history.add(store, write(tmp_path / "results.jsonl", 7, verdict(ttft_s=9.0)))
    assert (store / history.BASELINE).read_bytes() == kept == (store / f"{names[2]}.jsonl").read_bytes()
    (trend,) = history.trends(store, "ttft_s")
    assert [reading.bad for reading in trend.readings] == [False] * 5 + [True]


def test_the_same_file_is_the_same_run(store, tmp_path):
    count = len(history.runs(store))
    history.add(store, tmp_path / "results.jsonl")
    assert len(history.runs(store)) == count


def test_what_is_not_there_is_said(store, tmp_path):
    with pytest.raises(ResultsError, match="unknown run 'x'"):
        history.set_baseline(store, "x")
    with pytest.raises(ResultsError, match="longctx history add"):
        history.runs(tmp_path / "elsewhere")


def test_the_console_keeps_sets_and_shows(store, tmp_path, capsys):
    path = write(tmp_path / "results.jsonl", 8, verdict(ttft_s=2.0))
    assert cli.main(["history", "add", str(store), str(path)]) == 0
    name = capsys.readouterr().out.strip()
    assert cli.main(["history", "baseline", str(store), name]) == 0
    assert cli.main(["compare", str(store / history.BASELINE), str(path), "--fail-on", "ttft_s:0%"]) == 0
    capsys.readouterr()
    assert cli.main(["history", "show", str(store), "TT-0001"]) == 0
    assert "TT-0001 tiny ttft_s" in capsys.readouterr().out
    assert cli.main(["history", "show", str(store), "TT-0002"]) == 0
    assert not capsys.readouterr().out
    assert cli.main(["history", "show", str(store), "--measure", "tfft_s"]) == 2


def test_the_console_is_red_where_a_limit_is_missed(tmp_path, capsys):
    before = write(tmp_path / "before.jsonl", 1, verdict(ttft_s=1.0))
    after = write(tmp_path / "after.jsonl", 2, verdict(ttft_s=1.15))
    assert cli.main(["compare", str(before), str(after), "--fail-on=ttft_s:10%"]) == 1
    assert "TT-0001 tiny: ttft_s: 1.15 s" in capsys.readouterr().err
    assert cli.main(["compare", str(before), str(after)]) == 0
    assert cli.main(["compare", str(before), str(tmp_path / "none.jsonl")]) == 2
