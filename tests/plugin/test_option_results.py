"""Output of a run: JUnit properties, results.jsonl and the table, equal with and without xdist."""

import json
import re

import junitparser
import pytest

from pytest_longctx import read_results
from pytest_longctx.errors import ResultsError


def properties(path):
    """Return each test's properties in a JUnit file, read by another parser than pytest's."""
    suites = junitparser.JUnitXml.fromfile(str(path))
    return {
        case.name: {p.name: p.value for group in case.iterchildren(junitparser.Properties) for p in group}
        for suite in suites
        for case in suite
    }


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_verdicts_reach_junit_and_results_alike(run, workers):
    done = run(
        "--backend=miniature", "-m", "ten_k or ten_million", "--junitxml=report.xml", "--longctx-seed=7", *workers
    )
    done.outcome.assert_outcomes(passed=3)
    found = properties(done.folder / "report.xml")["test_length_is_served[LC-0010-miniature]"]
    assert found["longctx.LC-0010.verdict"] == "holds"
    assert found["longctx.LC-0010.prompt_tokens"] == "10000000"
    assert 0 < float(found["longctx.LC-0010.ttft_s"]) < 60
    assert found["longctx.server.engine"] == "miniature 0.0.0+miniature"
    assert found["longctx.server.model"] == "miniature (unknown weights)"
    assert found["longctx.server.seed"] == "7"

    results = done.results
    assert results.header["seed"] == 7
    assert results.footer["verdicts"] == {"holds": 3}
    (row,) = [row for row in results.verdicts if row["finding"] == "LC-0010"]
    assert row["measured"]["prompt_tokens"] == 10_000_000
    assert row["server"]["deployment"] == "miniature"
    assert row["outcome"] == "passed"
    assert {boot["deployment"] for boot in results.boots} == {"miniature"}
    assert all(boot["figures"]["concurrency"] == 2.0 for boot in results.boots)


def test_no_prompt_reaches_any_output(run):
    """A repr of ten million tokens would make a report of 70 MB."""
    done = run("--backend=miniature", "-m", "ten_million", "--junitxml=report.xml", "-vv", "-rA")
    assert (done.folder / "report.xml").stat().st_size < 20_000
    assert (done.folder / "results" / "results.jsonl").stat().st_size < 20_000
    assert len(done.text) < 20_000


def test_the_table_fits_eighty_columns_and_shows_the_worst_first(run, faulty):
    done = run("--backend=miniature", faulty("late-first-token"))
    lines = done.outcome.stdout.lines
    rows = lines[lines.index(next(line for line in lines if " findings " in line)) + 1 :]
    words = [row[8:21].strip() for row in rows if row[:2] in ("LC", "MN")]
    assert words == sorted(words, key=["broken", "out of scope", "holds"].index)
    assert max(map(len, rows[: len(words)])) <= 80
    assert any(re.fullmatch(r"1 broken, \d+ out of scope, \d+ holds", row) for row in rows)


def test_an_older_results_file_is_kept(run):
    for _ in range(2):
        run("--backend=miniature", "-m", "ten_k")
    kept = sorted((run("--backend=miniature", "-m", "ten_k").folder / "results").glob("*.jsonl"))
    assert len(kept) >= 2
    assert kept[-1].name == "results.jsonl" or kept[0].name == "results.jsonl"


def test_a_cut_off_file_is_refused(run):
    done = run("--backend=miniature", "-m", "ten_k")
    path = done.folder / "results" / "results.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ResultsError, match="the footer is missing"):
        read_results(path)


def test_a_run_without_findings_leaves_nothing_behind(run, pytester):
    pytester.makepyfile("def test_it(): pass")
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.assert_outcomes(passed=1)
    assert not (pytester.path / "results").exists()


def test_the_same_seed_sends_the_same_prompts(run, pytester):
    pytester.makepyfile(
        """
        import pytest, pathlib

        @pytest.mark.finding("LC-0002")
        def test_it(finding, prompt):
            with open("digests", "a") as out:
                print(prompt(1000).digest, prompt(1000).digest, file=out)
        """
    )
    for seed in (1, 1, 2):
        run("--backend=miniature", f"--longctx-seed={seed}", what=str(pytester.path))
    first, again, other = (pytester.path / "digests").read_text().splitlines()
    assert first == again != other
    assert len(set(first.split())) == 2


def test_boots_that_failed_are_recorded_with_their_cause(run, faulty):
    done = run("--backend=miniature", faulty("runs-out-of-memory"), "-m", "ten_k")
    (boot,) = done.results.boots
    assert boot["outcome"] == "runs out of memory"
    assert boot["signature"] == "gpu-out-of-memory"
    assert boot["class"] == "gpu-oom"
    assert boot["figures"] == {"allocation_gib": 4.0, "device_gib": 140.06, "device_free_gib": 3.12}
    assert "\n  try      " in boot["explained"]
    assert "\n  again    " in boot["explained"]
    assert json.loads(json.dumps(boot)) == boot


def test_every_request_is_a_row_inside_the_time_of_its_boot(run):
    done = run("--backend=miniature", "-k", "LC-0001-miniature")
    (boot, *_), requests = done.results.boots, done.results.requests
    assert requests
    for row in requests:
        assert row["deployment"] == boot["deployment"]
        assert boot["started_s"] < row["started_s"] <= row["ended_s"]
    assert {row["sent_tokens"] for row in requests} == {1000}
