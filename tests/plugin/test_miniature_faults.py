"""Each fault of a miniature is caught by the check that names it, and by no other."""

import re

import pytest

from pytest_longctx.miniatures.faults import FAULTS
from pytest_longctx.reports.causes import causes

SERVED = {"LC-0001", "LC-0002", "LC-0003", "LC-0004", "LC-0020", "LC-0040", "LC-0041", "MN-0001", "MN-0040"}
ALL = SERVED | {"LC-0021", "LC-0022", "LC-0023", "LC-0030", "LC-0031", "LC-0050", "LC-0080"}

CAUGHT = {
    "honest": {},
    "late-first-token": {"MN-0001": "ttft_s"},
    "truncates-prompt": dict.fromkeys(SERVED, "prompt_tokens")
    | dict.fromkeys(["LC-0030", "LC-0031", "LC-0050"], "miscounted_prompts"),
    "miscounts-usage": dict.fromkeys(SERVED, "completion_tokens")
    | dict.fromkeys(["LC-0030", "LC-0031", "LC-0050"], "miscounted_answers"),
    "claims-too-much": dict.fromkeys(["LC-0004", "LC-0020", "LC-0080", "MN-0040"], "outcome: refuses, wanted serves")
    | {"LC-0023": "claim_shortfall_tokens"},
    "takes-too-much": dict.fromkeys(["LC-0021", "LC-0022"], "outcome: serves, wanted refuses"),
    "dies-mid-stream": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050"], "outcome: dies, wanted serves"
    ),
    "stalls-mid-stream": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050"], "outcome: hangs, wanted serves"
    ),
    "stalls-halfway": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050"], "outcome: hangs, wanted serves"
    ),
    "stalls-in-prefill": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050"], "outcome: hangs, wanted serves"
    ),
    "crawls": {},
    "crawls-in-prefill": {},
    "reads-on": {"LC-0080": "abandoned_tokens: 60,000 tokens, wanted exactly 0 tokens"},
    "never-schedules": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050", "LC-0080"], "outcome: is not admitted, wanted serves"
    ),
    "stays-blocked": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050", "LC-0080"], "outcome: is not admitted, wanted serves"
    ),
    "wedges": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050", "LC-0080"], "outcome: hangs, wanted serves"
    ),
    "engine-dies": dict.fromkeys(
        [*SERVED, "LC-0023", "LC-0030", "LC-0031", "LC-0050", "LC-0080"], "outcome: dies, wanted serves"
    ),
    "runs-out-under-a-request": dict.fromkeys(ALL, "outcome: runs out of memory"),
    "resets-connection": dict.fromkeys(ALL, "outcome: disconnects"),
    "error-in-stream": dict.fromkeys([*SERVED, "LC-0030", "LC-0031", "LC-0050"], "outcome: refuses, wanted serves")
    | {"LC-0023": "claim_shortfall_tokens"},
    "cached-answer": dict.fromkeys([*(SERVED - {"LC-0040"}), "LC-0050"], "cached_share"),
    "forgets-cache": {"LC-0040": "cached_share", "LC-0041": "cached_share_before"},
    "keeps-cache": {"LC-0041": "cached_share: 0.998, wanted exactly 0"},
    "counters-disagree": dict.fromkeys(SERVED, "server_prompt_tokens")
    | dict.fromkeys(["LC-0030", "LC-0031", "LC-0050"], "ledger_gap_tokens"),
    "clock-disagrees": dict.fromkeys(SERVED, "ttft_gap_s"),
    "hides-counters": dict.fromkeys(SERVED, "server_prompt_tokens: not observed")
    | dict.fromkeys(["LC-0030", "LC-0031", "LC-0050"], "ledger_gap_tokens: not observed")
    | {"LC-0080": "abandoned_tokens: not observed"},
    "hangs-at-boot": dict.fromkeys(ALL, "outcome: hangs"),
    "exits-at-boot": dict.fromkeys(ALL, "outcome: dies"),
    "never-healthy": dict.fromkeys(ALL, "outcome: hangs"),
    "overcommits": dict.fromkeys(ALL, "outcome: overcommits"),
    "runs-out-of-memory": dict.fromkeys(ALL, "outcome: runs out of memory"),
    "dies-hanging": dict.fromkeys(ALL, "outcome: runs out of memory"),
    "cries-wolf": {},
    "crawls-at-boot": dict.fromkeys(
        ALL, "too slow here: not ready within 4.00 s, and the log (Loading checkpoint shards: "
    ),
    "answers-500": dict.fromkeys(ALL, "outcome: fails, wanted"),
}
SET_UP = {
    "wants-key": "it requires an API key",
    "forbids": "it requires an API key",
    "has-no-completions": "answered HTTP 404",
    "is-a-web-page": "it returned a web page",
    "loses-its-route": "answered HTTP 404",
}
"""Faults for which no finding is judged, because the request could not be sent."""
STOPPED = {
    "is-killed": "did not become ready",
    "loses-worker": "died unexpectedly (exit code: -9)",
    "is-killed-under-a-request": "was stopped while it worked, so nothing is judged",
}
"""Faults of the machine: SIGKILL from outside, which the kernel did not send for memory. No finding is judged."""
OF_DRIFT = {"scored-answers", "depends-on-company", "coarse-cache", "garbled-cache"}
"""Faults of predictions, which no law sees; ``test_fixture_drift`` plants them."""


def test_every_fault_has_its_check():
    """A miniature without an expected check would prove nothing."""
    assert CAUGHT.keys() | SET_UP.keys() | STOPPED.keys() | OF_DRIFT == FAULTS.keys()
    assert not CAUGHT.keys() & SET_UP.keys()


@pytest.mark.parametrize("fault", CAUGHT)
def test_fault_is_caught_by_its_own_check(run, faulty, fault):
    """The broken findings and their lines are exactly those listed above."""
    done = run("--backend=miniature", "--longctx-strict", faulty(fault))
    rows = {row["finding"]: row for row in done.results.verdicts}
    broken = {name: row["why"] for name, row in rows.items() if row["verdict"] in ("broken", "unmeasured")}
    holding = {row["finding"] for row in done.results.verdicts if row["verdict"] == "holds"}
    assert broken.keys() == CAUGHT[fault].keys()
    for finding, line in CAUGHT[fault].items():
        assert broken[finding].startswith(line)
        # Exactly one line: the side effects of a fault must not look like a second fault.
        once = broken[finding].replace("; recovered: 0, wanted exactly 1", "")  # MN-0040 asks exactly this
        assert once.count(", wanted ") == 1 or rows[finding]["verdict"] == "unmeasured"
    assert holding | broken.keys() == ALL
    # One faulty server is one cause, whichever of its laws a test meets first.
    assert len(causes(done.results)) == bool(CAUGHT[fault])
    assert done.outcome.ret == (0 if not CAUGHT[fault] else 1)


def assert_judged_nothing(done, errors):
    """Every test ended with an error of the set-up, and no finding has a verdict."""
    counted = done.outcome.parseoutcomes()
    assert [counted.get(name, 0) for name in ("passed", "failed", "errors")] == [0, 0, errors]
    assert "Traceback" not in done.text
    assert not (done.folder / "results" / "results.jsonl").exists() or done.results.verdicts == []
    assert done.outcome.ret == 1


@pytest.mark.parametrize("fault", SET_UP)
def test_a_server_that_cannot_be_asked_is_an_error_of_the_set_up(run, faulty, fault):
    """No finding is broken and none holds, not even one that expects a refusal."""
    done = run("--backend=miniature", faulty(fault), "-k", "LC-0001 or LC-0021 or LC-0050 or LC-0080")
    assert_judged_nothing(done, errors=4)
    assert SET_UP[fault] in done.text
    assert "the request did not reach an engine" in done.text


@pytest.mark.parametrize("fault", STOPPED)
def test_a_server_that_is_killed_from_outside_is_an_error_of_the_machine(run, faulty, fault):
    """No finding is broken and none holds, not even one that expects a failed boot."""
    done = run("--backend=miniature", faulty(fault), "-k", "LC-0001 or LC-0050")
    assert_judged_nothing(done, errors=2)
    assert STOPPED[fault] in done.text
    assert "was ended by SIGKILL, from outside" in done.text
    assert "the kernel counted no out-of-memory kill" in done.text


def test_one_error_for_every_request_is_told_with_the_logs_exception(run, faulty):
    done = run("--backend=miniature", faulty("answers-500"), "-k", "LC-0001")
    (row,) = done.results.verdicts
    assert row["verdict"] == "broken"
    message = "it came up, and answers every request with HTTP 500: 'text'; its log: KeyError: 'text'"
    assert message in row["why"]
    assert message in done.text
    assert done.results.boots[0]["seconds"] < 20


def test_a_boot_that_is_too_slow_fails_no_test_unless_the_run_is_strict(run, faulty):
    done = run("--backend=miniature", faulty("crawls-at-boot"), "-k", "LC-0001", "--longctx-allow-unjudged")
    (row,) = done.results.verdicts
    assert row["verdict"] == "unmeasured"
    assert done.outcome.parseoutcomes().get("skipped") == 1
    assert done.outcome.ret == 0


DOCUMENTED = """
id = "XX-0001"
title = "an out-of-memory at boot that is documented"
question = "boot-fails"
markers = ["expected_oom"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[expect]
outcome = "runs out of memory"
signature = "gpu-out-of-memory"
[bounds.allocation_gib]
unit = "GiB"
exactly = 4.0
"""

SEEN_INSTEAD = {
    "runs-out-of-memory": "",
    "dies-hanging": "allocation_gib: 2.22 GiB, wanted exactly 4 GiB",
    "honest": "outcome: serves, wanted runs out of memory (the finding has changed: a clean start instead of",
    "hangs-at-boot": "outcome: hangs, wanted runs out of memory (the finding has changed: a timeout instead of",
    "exits-at-boot": "outcome: dies, wanted runs out of memory (the finding has changed: another cause, unknown instead of",
}


@pytest.mark.parametrize("fault", SEEN_INSTEAD)
def test_a_documented_failure_counts_only_for_its_own_reason_and_size(run, faulty, pytester, fault):
    folder = pytester.mkdir("findings")
    (folder / "XX-0001.toml").write_text(DOCUMENTED, encoding="utf-8")
    done = run("--backend=miniature", faulty(fault), "--longctx-data=.", "-k", "XX-0001")
    (row,) = done.results.verdicts
    assert row["verdict"] == ("broken" if SEEN_INSTEAD[fault] else "holds")
    assert row["why"].startswith(SEEN_INSTEAD[fault])


def test_a_fatal_line_ends_the_wait_for_a_server_that_hangs(run, faulty):
    """Its deadline is thirty seconds away. The only evidence is the log line; the process gives no signal."""
    done = run("--backend=miniature", faulty("dies-hanging"), "-k", "MN-0001")
    (boot,) = done.results.boots
    assert (boot["outcome"], boot["class"], boot["signature"]) == ("runs out of memory", "gpu-oom", "gpu-out-of-memory")
    assert boot["figures"]["allocation_gib"] == 2.22
    assert (
        "gpu-oom (gpu-out-of-memory) in phase unknown (not known: the log has no mark of a phase before it), certain"
        in done.text
    )
    assert "allocation_gib 2.22 GiB" in done.text
    assert "the time was up" not in done.text


def test_a_refusal_is_read(run, faulty):
    done = run("--backend=miniature", faulty("honest"), "-k", "LC-0021")
    (row,) = done.results.verdicts
    assert row["verdict"] == "holds"
    assert row["measured"]["refused_tokens"] + row["measured"]["max_model_len"] > 65_536


def test_a_failed_boot_is_compared_with_the_last_good_one(run, faulty, pytester):
    pytester.makeini("[pytest]\naddopts = -p no:hypothesispytest\n")  # with pytest's cache, which keeps the log
    kept = ("--backend=miniature", "-k", "MN-0001")
    first = run(*kept, faulty("runs-out-of-memory"))
    assert "differs" not in first.text  # there is no good boot yet
    assert run(*kept, faulty("honest")).results.boots[0]["outcome"] == "serves"
    done = run(*kept, faulty("runs-out-of-memory"))
    assert re.search(r"differs +line only in this log: .*torch.OutOfMemoryError: CUDA out of memory", done.text)
