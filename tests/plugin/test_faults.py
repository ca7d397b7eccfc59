"""Each miniature's fault is caught by the check that names it, and by no other."""

import pytest

from pytest_longctx.miniatures.faults import FAULTS

SERVED = {"LC-0001", "LC-0002", "LC-0003", "LC-0004", "LC-0020", "LC-0040", "MN-0001"}
ALL = SERVED | {"LC-0021", "LC-0022", "LC-0030", "LC-0050"}

CAUGHT = {
    "honest": {},
    "late-first-token": {"MN-0001": "ttft_s"},
    "truncates-prompt": dict.fromkeys(SERVED, "prompt_tokens")
    | dict.fromkeys(["LC-0030", "LC-0050"], "miscounted_prompts"),
    "miscounts-usage": dict.fromkeys(SERVED, "completion_tokens")
    | dict.fromkeys(["LC-0030", "LC-0050"], "miscounted_answers"),
    "claims-too-much": dict.fromkeys(["LC-0004", "LC-0020"], "outcome: refuses, wanted serves"),
    "takes-too-much": dict.fromkeys(["LC-0021", "LC-0022"], "outcome: serves, wanted refuses"),
    "dies-mid-stream": dict.fromkeys([*SERVED, "LC-0030", "LC-0050"], "outcome: dies, wanted serves"),
    "stalls-mid-stream": dict.fromkeys([*SERVED, "LC-0030", "LC-0050"], "outcome: hangs, wanted serves"),
    "never-schedules": dict.fromkeys([*SERVED, "LC-0030", "LC-0050"], "outcome: is not admitted, wanted serves"),
    "resets-connection": dict.fromkeys(ALL, "outcome: disconnects"),
    "error-in-stream": dict.fromkeys([*SERVED, "LC-0030", "LC-0050"], "outcome: refuses, wanted serves"),
    "cached-answer": dict.fromkeys(SERVED - {"LC-0040"}, "cached_share"),
    "forgets-cache": {"LC-0040": "cached_share"},
    "hangs-at-boot": dict.fromkeys(ALL, "outcome: hangs"),
    "exits-at-boot": dict.fromkeys(ALL, "outcome: dies"),
    "never-healthy": dict.fromkeys(ALL, "outcome: hangs"),
    "overcommits": dict.fromkeys(ALL, "outcome: overcommits"),
    "runs-out-of-memory": dict.fromkeys(ALL, "outcome: runs out of memory"),
    "dies-hanging": dict.fromkeys(ALL, "outcome: runs out of memory"),
    "loses-worker": dict.fromkeys(ALL, "outcome: dies"),
    "is-killed": dict.fromkeys(ALL, "outcome: dies"),
    "cries-wolf": {},
}


def test_every_fault_has_its_check():
    """A miniature that nothing is expected to catch would prove nothing."""
    assert CAUGHT.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught_by_its_own_check(run, faulty, fault):
    """Which findings break, and on which line, is exactly what is written above."""
    done = run("--backend=miniature", faulty(fault))
    broken = {row["finding"]: row["why"] for row in done.results.verdicts if row["verdict"] == "broken"}
    holding = {row["finding"] for row in done.results.verdicts if row["verdict"] == "holds"}
    assert broken.keys() == CAUGHT[fault].keys()
    for finding, line in CAUGHT[fault].items():
        assert broken[finding].startswith(line)
        # One line and no more: whatever else a fault does, it must not look like a second fault.
        assert broken[finding].count(", wanted ") == 1
    assert holding | broken.keys() == ALL
    assert done.outcome.ret == (0 if not CAUGHT[fault] else 1)
