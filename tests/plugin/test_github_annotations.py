"""Output for GitHub Actions, with and without xdist."""

import re

import pytest


@pytest.fixture
def actions(monkeypatch, pytester, run):
    """Set the environment of a step whose workspace is the test's folder."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    (pytester.path / "summary.md").write_text("of an earlier step\n")
    return pytester.path


@pytest.fixture
def red(run, faulty, pytester):
    """A run with a broken finding in a test of the repository."""
    pytester.makepyfile(
        test_own="""
        import pytest

        @pytest.mark.finding("MN-0001")
        def test_it(finding, prompt, ask, judge):
            assert judge(ask(prompt(10_000), 32))
        """
    )
    chosen = faulty("late-first-token")
    return lambda *arguments: run("--backend=miniature", chosen, *arguments, what=str(pytester.path / "test_own.py"))


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_a_broken_finding_is_annotated_where_its_test_stands(actions, red, workers):
    done = red("-q", *workers)
    message = [line for line in done.outcome.stdout.lines if line.startswith("::")]
    assert len(message) == 1
    assert re.match(r"::error file=test_own.py,line=\d,title=MN-0001 broken on faulty::ttft_s: \d", message[0])
    for word in ("asked    a prompt of 10,000 tokens", "seen     ttft_s", "allowed  ttft_s", "again    pytest "):
        assert f"%0A  {word}" in message[0]
    page = (actions / "summary.md").read_text()
    assert page.startswith("of an earlier step\n### Findings: 1 broken\n")
    assert "| MN-0001 | **broken** | faulty |" in page


def test_a_run_that_judged_nothing_says_so_in_the_summary(actions, run):
    run("--backend=sglang", "-m", "ten_million", "--longctx-hardware=cpu")
    assert "No finding was judged" in (actions / "summary.md").read_text()


def test_elsewhere_nothing_is_annotated(red, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert "::error" not in red().text
    assert "::error title=" in red("--longctx-github").text or "::error file=" in red("--longctx-github").text
