"""``--json`` of commands that also print text: the same figures, and nothing else on standard output."""

import json
import shutil
from pathlib import Path

import pytest

from pytest_longctx import cli, paths
from pytest_longctx.findings.finding import load_all
from pytest_longctx.reports.compare import compare
from pytest_longctx.reports.results import read

RESULTS = Path(__file__).parents[3] / "docs/results/vllm-0.32.0-cpu/results.jsonl"
SLOWER = 1.5


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run, and the same run with longer times to first token."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(RESULTS, "before.jsonl")
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if "ttft_s" in row.get("measured", {}):
            row["measured"]["ttft_s"] *= SLOWER
    Path("after.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return tmp_path


def answer(capsys, *words, status=0):
    assert cli.main([*words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_compare_has_every_change(place, capsys):
    found = answer(capsys, "compare", "before.jsonl", "after.jsonl")
    wanted = compare(read("before.jsonl"), read("after.jsonl"))
    assert len(found["changes"]) == len(wanted)
    slower = [row for row in found["changes"] if row["measure"] == "ttft_s"]
    assert slower
    assert all(row["change"] == "changed" and row["worse_by"] == pytest.approx(0.5) for row in slower)
    assert found["over_the_limit"] == []


def test_compare_lists_what_is_over_its_limit(place, capsys):
    found = answer(capsys, "compare", "before.jsonl", "after.jsonl", "--fail-on=ttft_s:20%", status=1)
    assert {row["measure"] for row in found["over_the_limit"]} == {"ttft_s"}
    assert answer(capsys, "compare", "before.jsonl", "before.jsonl", "--fail-on=ttft_s:20%")["over_the_limit"] == []


def test_merge_counts_the_verdicts(place, capsys):
    found = answer(capsys, "merge", "before.jsonl", "-o", "whole.jsonl")
    assert found["verdicts"] == {word: count for word, count in read("whole.jsonl").footer["verdicts"].items() if count}
    assert found["green"] is True


def test_history_names_its_runs_and_shows_their_trends(place, capsys):
    (first,) = answer(capsys, "history", "add", "store", "before.jsonl")
    second, _ = answer(capsys, "history", "add", "store", "after.jsonl", "before.jsonl")
    assert answer(capsys, "history", "baseline", "store", first) == ["store/baseline.jsonl"]
    trends = answer(capsys, "history", "show", "store")
    assert trends
    for trend in trends:
        assert {point["run"] for point in trend["runs"]} == {first, second}
        assert trend["measure"] == "ttft_s"


def test_report_names_the_files_that_it_wrote(place, capsys):
    found = answer(capsys, "report", "before.jsonl", "--plots=plots")
    assert Path(found["html"]).is_file()
    assert found["plots"]
    assert all(Path(plot).is_file() for plot in found["plots"])


def test_check_counts_and_names_what_no_test_can_judge(place, capsys):
    (place / "findings").mkdir()
    shipped = paths.suites() / "findings" / "LC-0001-1k-served.toml"
    text = shipped.read_text(encoding="utf-8").replace("LC-0001", "XY-0001") + '\n[scope]\ndeployment = ["nowhere"]\n'
    (place / "findings" / "XY-0001.toml").write_text(text, encoding="utf-8")
    found = answer(capsys, "check", "--data=.")
    assert found["findings"] == len(load_all((paths.suites() / "findings",))) + 1
    assert "XY-0001" in found["not_judgeable"]


@pytest.mark.parametrize("launcher", ["process", "docker", "kubernetes"])
def test_render_is_a_command_or_a_list_of_objects(capsys, launcher):
    found = answer(capsys, "render", "scout-vllm-2m", f"--launcher={launcher}")
    if launcher == "kubernetes":
        assert {each["kind"] for each in found["items"]} == {"Pod", "Service"}
    else:
        assert "vllm.entrypoints" in found["command"]
