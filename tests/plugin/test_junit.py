"""JUnit XML of a run: stable classes, causes told once, no JSON, and a failed boot as a failure."""

import re
from xml.etree import ElementTree as ET

import pytest

CHOSEN = "LC-0001 or LC-0030 or LC-0041 or LC-0021"


def cases(done):
    return {case.get("name"): case for case in ET.parse(done.folder / "report.xml").iter("testcase")}


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_faulty_server_is_told_once_in_stable_classes(run, faulty, workers):
    done = run("--backend=miniature", faulty("truncates-prompt"), "-k", CHOSEN, "--junitxml=report.xml", *workers)
    found = cases(done)
    assert {case.get("classname") for case in found.values()} == {
        "longctx.accounting",
        "longctx.context_length",
        "longctx.limits",
        "longctx.prefix_cache",
    }
    values = [each.get("value", "") for case in found.values() for each in case.iter("property")]
    assert values
    assert not [value for value in values if value.startswith(("{", "["))]
    told = {name: case.findtext("system-out") or "" for name, case in found.items() if case.find("failure") is not None}
    assert len(told) == 3
    assert all("\n  seen     " in text and "\n  again    pytest " in text for text in told.values())
    failures = [case.findtext("failure") or "" for case in found.values() if case.find("failure") is not None]
    pointing = [
        text
        for text in failures
        if re.search(r"^  cause    as LC-\d+: see test_\w+\[LC-\d+-faulty\]$", text, re.MULTILINE)
    ]
    assert len(pointing) == 2 or workers  # workers tell a cause once each
    assert {row["finding"]: bool(row["explained"]) for row in done.results.verdicts} == {
        "LC-0001": True,
        "LC-0021": False,
        "LC-0030": True,
        "LC-0041": True,
    }
    assert "one cause: faulty counts other prompt tokens than were sent" in " ".join(done.text.split())


def test_a_finding_whose_server_does_not_boot_fails(run, faulty):
    done = run("--backend=miniature", faulty("exits-at-boot"), "-k", CHOSEN, "--junitxml=report.xml")
    done.outcome.assert_outcomes(failed=4)
    suite = next(ET.parse(done.folder / "report.xml").iter("testsuite"))
    assert (suite.get("failures"), suite.get("errors")) == ("4", "0")
    assert done.text.count("  because  the process exited with code 3") == 1
    assert len(re.findall(r"^  cause    as LC-0\d+: see test_", done.text, re.MULTILINE)) == 3


def test_a_missing_engine_stays_an_error(run, pytester):
    (pytester.path / "mine.toml").write_text(
        'name = "mine"\ntitle = "t"\nbackend = "sglang"\nmax_model_len = 4096\n[model]\nname = "x"\nmake = "tiny-llama4"\n'
    )
    done = run("--backend=sglang", "--longctx-deployment=mine.toml", "-k", "LC-0001", "--junitxml=report.xml")
    suite = next(ET.parse(done.folder / "report.xml").iter("testsuite"))
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")


def test_claims_are_not_judged_for_a_server_at_a_url(run):
    done = run(
        "--backend=vllm", "--longctx-launcher=url:http://127.0.0.1:9", "-k", "test_claim_adds_up", "--collect-only"
    )
    assert "test_claim_adds_up[" not in done.text
