"""
``longctx init``, a run, ``longctx record``, and another run: green as it was, red when slower by a fifth or when truncating.

The first token of the miniature comes after a fixed time; only a machine that delays three of five requests by a tenth of that would
disturb the green run. A machine so busy that the run's own spread hides a slowdown of a fifth gets one that is as much larger as
the recorded limit.
"""

import pytest

from pytest_longctx import cli
from pytest_longctx.findings.finding import load_all

LATE_S = 2.0


@pytest.fixture
def project(pytester, monkeypatch):
    """A folder with the files of ``longctx init``, and a miniature that takes `LATE_S` to answer."""
    for name in ("CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(pytester.path)
    assert cli.main(["init", "--backend=miniature"]) == 0
    change(pytester, "late-s = 1.0", f"late-s = {LATE_S}")
    return pytester


def change(project, old, new):
    """Replace *old* in the deployment by *new*."""
    path = project.path / "deployments" / "own-miniature.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def judged(outcome):
    """Return the tests that ran, by outcome."""
    return {word: count for word, count in outcome.parseoutcomes().items() if word not in ("deselected", "warnings")}


def test_a_recorded_run_judges_the_next_ones(project):
    assert judged(project.runpytest("-p", "no:cacheprovider")) == {"passed": 1}
    assert cli.main(["record"]) == 0

    same = project.runpytest("-p", "no:cacheprovider", "-k", "REC-")
    assert judged(same) == {"passed": 1}

    (recorded,) = (each for name, each in load_all((project.path / "findings",)).items() if name.startswith("REC-"))
    limit_s = recorded.bounds["ttft_s"].at_most
    assert limit_s is not None
    assert 1.1 * LATE_S <= limit_s < 2 * LATE_S
    change(project, f"late-s = {LATE_S}", f"late-s = {max(1.2 * LATE_S, 1.01 * limit_s)}")
    slower = project.runpytest("-p", "no:cacheprovider", "-k", "REC-")
    assert judged(slower) == {"failed": 1}
    slower.stdout.fnmatch_lines(["*allowed  ttft_s <= *"])

    change(project, "late-first-token", "truncates-prompt")
    truncated = project.runpytest("-p", "no:cacheprovider", "-k", "REC-")
    assert judged(truncated) == {"failed": 1}
    truncated.stdout.fnmatch_lines(["*allowed  prompt_tokens exactly 10,000 tokens*"])
