"""A failing test of a user reports the reason in one block: in the terminal and in JUnit XML, with and without xdist."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

README = Path(__file__).parents[2] / "README.md"
WORDS = "This model's maximum context length is 10485760 tokens."
ROWS = ["at", "asked", "seen", "allowed", "because", "do", "again"]
VERDICT = ["asked", "seen", "allowed", "checked", "do", "again"]


def readme_test():
    """The test shown in README."""
    (code,) = re.findall(r"```python\n(def test_.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return code


def block(text, headline):
    """Return the row labels below *headline*, and their lines."""
    lines = text.splitlines()
    rows = []
    for line in lines[next(index for index, line in enumerate(lines) if line.startswith(headline)) + 1 :]:
        if not line.startswith("  "):
            break
        rows.append(line)
    return [row[2:11].strip() for row in rows], "\n".join(rows)


def failure(text):
    """Return pytest's output about the failures."""
    return text.partition("= FAILURES =")[2].partition("short test summary")[0]


@pytest.fixture
def own(run, pytester):
    """Run a user's test with JUnit XML. Returns the run and the text of its failure in the XML."""

    def start(code, *arguments):
        pytester.makepyfile(test_own=code)
        done = run("--backend=miniature", "--junitxml=j.xml", *arguments, what=str(pytester.path / "test_own.py"))
        found = ET.parse(pytester.path / "j.xml").find(".//failure")
        return done, "" if found is None else found.text or ""

    return start


def test_the_test_of_the_readme_passes_where_its_prompt_is_served(own):
    done, _ = own(readme_test())
    done.outcome.assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_the_test_of_the_readme_says_why_a_server_refused(own, workers):
    done, in_junit = own(readme_test().replace('"2M"', '"20M"'), *workers)
    done.outcome.assert_outcomes(failed=1)
    for text in (failure(done.text), in_junit):
        words, rows = block(text, "the request was not served: refused")
        assert words == ROWS
        assert "test_own.py:2" in rows
        assert WORDS in rows
        assert "a prompt of at most 10,485,560 tokens" in rows
        assert "NoneType" not in text
        assert "Exchange(" not in text
        assert "fixtures.py" not in text
    assert "- Failed: th" in done.text  # the summary line contains the reason too, cut to its width


ENDINGS = {
    "runs-out-under-a-request": "server error",
    "resets-connection": "disconnected",
    "stalls-mid-stream": "stalled",
    "never-schedules": "not admitted",
    "error-in-stream": "refused",
}


@pytest.mark.parametrize("fault", ENDINGS)
def test_every_ending_other_than_complete_is_raised(own, faulty, fault):
    done, in_junit = own(
        "def test_it(prompt, ask):\n    assert ask(prompt(9_000), 8).usage.prompt_tokens == 9_000", faulty(fault)
    )
    done.outcome.assert_outcomes(failed=1)
    words, rows = block(in_junit, "the request was not served: ")
    assert {"at", "asked", "seen", "allowed", "because", "do", "again"} <= set(words)
    assert ENDINGS[fault] in rows
    assert "Traceback" not in done.text


def test_a_refusal_can_be_caught_or_returned(own):
    done, _ = own(
        """
        import pytest
        from pytest_longctx.client.exchange import UnservedError

        def test_caught(prompt, ask):
            with pytest.raises(UnservedError, match="maximum context length") as caught:
                ask(prompt("20M"), 4)
            assert caught.value.exchange.refusal.status == 400

        def test_returned(prompt, ask):
            assert ask(prompt("20M"), 4, unserved="return").ending == "refused"

        @pytest.mark.finding("LC-0022")
        def test_raised_though_it_judges(prompt, ask, judge):
            with pytest.raises(UnservedError) as caught:
                ask(prompt("20M"), 4, unserved="raise")
            judge(caught.value.exchange)
        """
    )
    done.outcome.assert_outcomes(passed=3)
    assert [(row["finding"], row["verdict"]) for row in done.results.verdicts] == [("LC-0022", "holds")]


def test_a_refusal_that_was_returned_is_told_where_the_test_fails_over_it(own):
    done, in_junit = own(
        """
        def test_it(prompt, ask):
            assert ask(prompt("20M"), 4, unserved="return").ttft_s < 200
        """
    )
    assert "TypeError" in in_junit
    for text in (failure(done.text), in_junit):
        assert WORDS in block(text, "the request was not served: refused")[1]


def test_a_figure_that_is_too_large_is_shown_beside_a_short_exchange(own):
    done, in_junit = own("def test_it(server, prompt, ask):\n    assert ask(prompt(5_000), 8).ttft_s < 0")
    assert re.search(r"where \d.* = <Exchange of 5,000 \+ 8 tokens, complete, TTFT .* s>\.ttft_s", in_junit)
    assert "server = <Server miniature at http://127.0.0.1:" in done.text


JUDGES = """
import pytest

@pytest.mark.finding("LC-0001")
def test_it(server, prompt, ask, judge):
    {line}
"""
ASKED = "judge(ask(prompt(10), 2))"


LINES = {
    "call": f"assert {ASKED}",
    "name": f"verdict = {ASKED}; assert verdict",
    "word": f"assert {ASKED}.word == 'holds'",
    "own": f"assert {ASKED}, 'my own words'",
    "thrown": ASKED,
}


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_a_broken_verdict_is_one_block(own, pytester, workers):
    several = (JUDGES.format(line=line).replace("test_it", f"test_{name}") for name, line in LINES.items())
    done, _ = own("\n".join(several), *workers)
    done.outcome.assert_outcomes(failed=len(LINES))
    in_junit = {case.get("name", ""): case.findtext("failure") or "" for case in ET.parse("j.xml").iter("testcase")}
    in_terminal = dict(re.findall(r"^_+ (test_\S+) _+$(.*?)(?=^_{5}|^-)", failure(done.text), re.MULTILINE | re.DOTALL))
    assert len(in_junit) == len(LINES)
    assert in_terminal.keys() == in_junit.keys()
    first = next(iter(in_junit))
    for name, text in (*in_junit.items(), *in_terminal.items()):
        words, rows = block(text, "LC-0001 broken: 1,000 tokens are served and counted exactly")
        # One cause: the first test explains it, the others name that test.
        assert words == (VERDICT if name == first else ["asked", "seen", "allowed", "cause", "again"]), name
        assert (f"  cause    as LC-0001: see {first}\n" in rows) is (name != first)
        assert re.search(r"^  again    pytest .*--backend=miniature --longctx-seed=\d+$", rows, re.MULTILINE)
        assert "prompt sent 10 tokens" in rows
        assert "prompt sent 1,000 tokens" in rows
        assert ("my own words" in text) is name.startswith("test_own")
        for noise in ("assert", "Verdict(", "Exchange", "<Server", "judge = "):
            assert noise not in text, (name, noise)


def test_a_broken_verdict_is_one_block_without_rewriting(own):
    done, in_junit = own(JUDGES.format(line=f"assert {ASKED}"), "--assert=plain")
    assert block(in_junit, "LC-0001 broken: ")[0] == VERDICT
    assert "AssertionError" not in failure(done.text)


def test_another_failure_keeps_its_traceback_and_the_verdict_stands_below(own):
    _, in_junit = own(JUDGES.format(line=f"{ASKED}; assert 1 == 2"))
    assert "assert 1 == 2" in in_junit
    assert block(in_junit, "LC-0001 broken: ")[0] == VERDICT


def test_missing_evidence_is_one_block_where_it_fails(own, faulty):
    done, in_junit = own(
        JUDGES.format(line="assert judge(ask(prompt(1000), 32))"), faulty("hides-counters"), "--longctx-strict"
    )
    done.outcome.assert_outcomes(failed=1)
    words, rows = block(in_junit, "LC-0001 unmeasured: ")
    assert words[:3] == ["asked", "seen", "allowed"]
    assert "assert" not in in_junit
    assert "server_prompt_tokens not observed" in rows


def test_the_shipped_suites_show_the_same_block(run, faulty):
    done = run("--backend=miniature", faulty("truncates-prompt"), "-k", "LC-0001 or LC-0040")
    text = failure(done.text)
    for finding in ("LC-0001", "LC-0040"):
        assert "prompt_tokens" in block(text, f"{finding} broken: ")[1]
    assert "assert" not in text
    assert "Finding(" not in text
