"""``longctx record``: which cases of a run become findings, and what these say."""

import json
from pathlib import Path

import pytest

from pytest_longctx import cli, toml
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.findings import finding
from pytest_longctx.findings.scope import Conditions, mismatch

FIGURES = {"ttft_s": 1.0, "cached_share": 0.0, "prompt_tokens": 10_000.0, "runs": 5.0, "ttft_spread": 0.01}


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    """A folder with the files of ``longctx init``."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "--backend=miniature"]) == 0
    capsys.readouterr()
    return tmp_path


def results(place, *rows, options=None, started="2026-11-29T10:00:00+00:00"):
    """Write a results file with verdict *rows* on the first finding, each changed."""
    first = finding.load_all((place / "findings",))["FIRST-0001"]
    server = {"deployment": "own-miniature", "hardware": "cpu", "engine": "miniature 1"}
    row = {
        "kind": "verdict",
        "test": "t",
        "finding": first.id,
        "verdict": "holds",
        "title": first.title,
        "why": "",
        "said": "",
        "status": "predicted",
        "content": toml.digest(first),
        "measured": FIGURES,
        "server": server,
    }
    header = {
        "kind": "header",
        "schema": 1,
        "started": started,
        "hardware": "cpu",
        "options": ["--backend=miniature", f"--longctx-data={place}"] if options is None else options,
        "machine": {"host_cpu_name": "A CPU"},
    }
    footer = {"kind": "footer", "finished": "x", "exit_code": 0, "verdicts": {"holds": len(rows)}}
    path = place / "run.jsonl"
    lines = [header, *({**row, **changes} for changes in rows), footer]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_a_case_that_holds_becomes_a_finding_that_asks_the_same(place, capsys):
    assert cli.main(["record", results(place, {}), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    known = finding.load_all((place / "findings",))
    made, first = known["REC-0001"], known["FIRST-0001"]
    assert [row["finding"] for row in said["recorded"]] == ["REC-0001"]
    assert Path(said["recorded"][0]["file"]).is_file()
    assert (made.ask, made.question, made.markers) == (first.ask, first.question, first.markers)
    assert made.bounds["ttft_s"].at_most == pytest.approx(1.1)
    assert (made.source.where, made.scope.hardware, made.status) == ("FIRST-0001", "cpu", "confirmed")
    assert "A CPU" in made.note
    one = deployment.load_all((place / "deployments",))["own-miniature"]
    assert mismatch(made, Conditions(one, Hardware("cpu"), "1"), settled=True) is None
    assert mismatch(made, Conditions(one, Hardware("H200", 8), "1"), settled=True) is not None
    assert said["again"].endswith("-k REC-")


def test_the_terminal_says_how_each_tolerance_came_about(place, capsys):
    assert cli.main(["record", results(place, {})]) == 0
    text = capsys.readouterr().out
    assert "5 runs ranged over 1 % of their median; 2 times that is at most the default of 10 %" in text
    assert "; a slowdown of 12 % or more is detected" in text
    assert "warning" not in text
    assert cli.main(["record", results(place, {"measured": {"ttft_s": 1.0, "cached_share": 0.0}}), "--prefix=ONE"]) == 0
    assert (
        "no spread is known from 1 run, so the tolerance is the default of 10 % for the unit s"
        in capsys.readouterr().out
    )


def test_a_machine_that_hides_a_slowdown_of_a_fifth_is_told_of_while_it_is_recorded(place, capsys):
    noisy = results(place, {"measured": FIGURES | {"ttft_spread": 0.31}})
    assert cli.main(["record", noisy]) == 0
    text = capsys.readouterr().out
    assert "5 runs ranged over 31 % of their median" in text
    assert (
        "  warning: the spread of this machine is too wide: a slowdown of 20 % would not reliably be detected in ttft_s"
        in text
    )
    assert "ask.runs = 10" in text
    assert cli.main(["record", noisy, "--prefix=JSON", "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["recorded"]
    assert made["slowdown_seen"]["ttft_s"] == pytest.approx(1.62 / 0.69 - 1)
    assert "would not reliably be detected" in made["warning"]


def test_a_rate_whose_bound_could_not_fail_is_left_out_by_name(place, capsys):
    """At twice a range of 79 %, any rate would do."""
    figures = FIGURES | {"decode_tokens_per_s": 70.0, "decode_spread": 0.79}
    assert cli.main(["record", results(place, {"measured": figures})]) == 0
    text = capsys.readouterr().out
    assert "left out: FIRST-0001 own-miniature decode_tokens_per_s: no bound on it could fail; tolerance 158 %" in text
    assert "decode_tokens_per_s" not in finding.load_all((place / "findings",))["REC-0001"].bounds
    wide = FIGURES | {"decode_tokens_per_s": 70.0, "decode_spread": 0.4}
    assert cli.main(["record", results(place, {"measured": wide}), "--prefix=WIDE"]) == 0
    assert finding.load_all((place / "findings",))["WIDE-0001"].bounds["decode_tokens_per_s"].at_least == pytest.approx(
        14.0
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"verdict": "broken"}, "it is broken; only results that hold are recorded"),
        ({"finding": "GONE-0001"}, "the finding's file was not found; give its folder with --data"),
        ({"content": "0" * 12}, "the finding's file has changed since the run"),
        ({"content": ""}, "with an older version"),
        ({"measured": {}}, "it has no figure that can be bounded"),
        ({"server": {}}, "no measured value of this run can be recorded"),
    ],
)
def test_what_cannot_be_recorded_is_told_and_not_written(place, capsys, changes, why):
    assert cli.main(["record", results(place, changes)]) == 2
    assert why in capsys.readouterr().err
    assert [path.name for path in (place / "findings").iterdir()] == ["FIRST-0001-first.toml"]


def test_one_case_that_is_left_out_does_not_stop_the_others(place, capsys):
    assert cli.main(["record", results(place, {}, {"finding": "GONE-0001"})]) == 0
    assert "left out: GONE-0001 own-miniature: the finding's file was not found" in capsys.readouterr().out


def test_a_recorded_case_is_recorded_once(place, capsys):
    path = results(place, {})
    assert cli.main(["record", path]) == 0
    before = {each: each.read_bytes() for each in (place / "findings").iterdir()}
    assert cli.main(["record", path]) == 2
    assert "already recorded as REC-0001; remove that file" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in (place / "findings").iterdir()} == before
    assert cli.main(["record", path, "--prefix=AGAIN"]) == 0


def test_the_folder_of_the_run_is_found_without_being_named(place, capsys, monkeypatch):
    path = results(place, {})
    monkeypatch.chdir("/")
    assert cli.main(["record", path]) == 0
    assert list((place / "findings").glob("REC-*.toml"))
    moved = results(place, {}, options=[])
    assert cli.main(["record", moved, f"--data={place}", "--prefix=OTHER"]) == 0
    assert list((place / "findings").glob("OTHER-*.toml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prefix=rec"], "must be 2 to 8 capital letters"),
        (["--tolerance=five"], "must be a percentage; write for example 5%"),
        (["--only=LC-0001"], "the run has not judged LC-0001"),
    ],
)
def test_a_wrong_option_is_one_message(place, capsys, words, message):
    assert cli.main(["record", results(place, {}), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_date_is_an_error(place, capsys):
    assert cli.main(["record", results(place, {}, started="yesterday")]) == 2
    assert "started = 'yesterday'" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_message(place, capsys, output):
    path = results(place, {})
    (place / "file").touch()
    assert cli.main(["record", path, "-o", output]) == 2
    assert capsys.readouterr().err.count("\n") == 1
