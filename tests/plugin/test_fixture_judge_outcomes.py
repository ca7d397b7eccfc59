"""The five verdicts, and the effect of each on a run."""

import pytest

UNMEASURABLE = """
id = "XX-0001"
title = "a boot that logs the size of its weights"
question = "boots"
markers = ["boot"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
backend = "miniature"
deployment = "miniature"
[bounds.weights_gib]
unit = "GiB"
at_most = 1.0
"""

GONE = """
id = "XX-0002"
title = "a failure that is known and has gone"
question = "served"
markers = ["smoke"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[ask]
prompt_tokens = 100
[known]
issue = "https://example.invalid/1"
since = 2026-01-01
"""


@pytest.fixture
def project(pytester):
    """A project with its own findings."""

    def write(text):
        folder = pytester.path / "findings"
        folder.mkdir(exist_ok=True)
        name = text.split('"')[1]
        (folder / f"{name}.toml").write_text(text)
        return "--longctx-data=."

    return write


def verdicts(done):
    return {row["finding"]: row["verdict"] for row in done.results.verdicts}


def test_holds_known_and_out_of_scope_leave_a_run_green(run):
    done = run("--backend=miniature", "-m", "boot or prefix_cache or expected_oom", "--longctx-hardware=cpu")
    assert verdicts(done) == {
        "LC-0040": "holds",
        "LC-0041": "holds",
        "MN-0002": "holds",
        "MN-0003": "holds",
        "MN-0004": "known",
    }
    done.outcome.assert_outcomes(passed=4, xfailed=1)


def test_unmeasured_is_never_a_pass(run, project):
    done = run("--backend=miniature", project(UNMEASURABLE), "-m", "boot", "-rs")
    assert verdicts(done)["XX-0001"] == "unmeasured"
    done.outcome.assert_outcomes(passed=1, skipped=1)
    assert "XX-0001 unmeasured: weights_gib: not observed, wanted <= 1 GiB" in done.text


@pytest.mark.parametrize("how", ["flag", "ini", "CI"])
def test_unmeasured_is_red_when_strict(run, project, how, pytester, monkeypatch):
    if how == "CI":
        monkeypatch.setenv("CI", "true")
    elif how == "ini":
        pytester.makeini("[pytest]\nlongctx_strict = true\n")
    flags = ["--longctx-strict"] if how == "flag" else []
    done = run("--backend=miniature", project(UNMEASURABLE), "-m", "boot", *flags)
    done.outcome.assert_outcomes(passed=1, failed=1)
    assert verdicts(done)["XX-0001"] == "unmeasured"


def test_a_known_failure_that_is_gone_is_broken(run, project):
    done = run("--backend=miniature", project(GONE), "-k", "XX-0002")
    assert verdicts(done) == {"XX-0002": "broken"}
    assert (
        "the known failure no longer occurs: remove `known` (https://example.invalid/1) from the finding" in done.text
    )
    done.outcome.assert_outcomes(failed=1)


def test_a_run_that_judged_nothing_is_red(run):
    done = run("--backend=sglang", "-m", "ten_million", "--longctx-hardware=cpu")
    assert set(verdicts(done).values()) == {"out of scope"}
    assert done.outcome.ret == pytest.ExitCode.TESTS_FAILED
    assert done.results.footer["exit_code"] == 1
    done.outcome.stdout.fnmatch_lines(
        [
            "*15 out of scope hardware: needs 8xH200, this machine has cpu",
            "*10 out of scope hardware: needs 1xH200, this machine has cpu",
            "*2 out of scope hardware: needs 1xGPU, this machine has cpu",
            "no finding was judged, so the run fails*",
        ]
    )


def test_a_run_that_judged_nothing_may_be_allowed(run):
    done = run("--backend=sglang", "-m", "ten_million", "--longctx-hardware=cpu", "--longctx-allow-unjudged")
    assert done.outcome.ret == pytest.ExitCode.OK


def test_a_finding_out_of_scope_boots_nothing(run):
    done = run("--backend=vllm", "-m", "ten_million", "--longctx-hardware=cpu")
    assert set(verdicts(done).values()) == {"out of scope"}
    assert done.results.boots == []


def test_a_verdict_that_is_thrown_away_still_counts(run, pytester):
    """A broken finding must not be green because its test lacks an assertion."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.finding("LC-0021")
        def test_it(server, prompt, ask, judge):
            judge(ask(prompt(100), 1))
        """
    )
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.assert_outcomes(failed=1)
    done.outcome.stdout.fnmatch_lines(
        ["LC-0021 broken: A prompt*", "  seen     outcome serves", "  allowed  outcome refuses"]
    )


def test_a_finding_that_is_never_judged_is_red(run, pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.finding('LC-0001')\ndef test_it(server, finding): pass")
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.assert_outcomes(failed=1)
    assert "LC-0001 was not judged: this test has a finding but never called judge()" in done.text


def test_a_finding_about_one_length_does_not_hold_by_another(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.finding("LC-0005")
        def test_it(server, prompt, ask, judge):
            verdict = judge(ask(prompt(10), 2))
            assert verdict
        """
    )
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.stdout.fnmatch_lines(
        ["LC-0005 broken: *", "  seen     prompt sent 10 tokens", "  allowed  prompt sent 100,000 tokens"]
    )


def test_the_worst_of_several_verdicts_is_kept(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.finding("LC-0001")
        def test_it(server, prompt, ask, judge):
            judge(ask(prompt(10), 2))
            judge(ask(prompt(1000), 2))
        """
    )
    done = run("--backend=miniature", what=str(pytester.path))
    (row,) = done.results.verdicts
    assert row["verdict"] == "broken"
    done.outcome.assert_outcomes(failed=1)


def test_a_test_may_ask_inside_an_event_loop(run, pytester):
    pytester.makepyfile(
        """
        import asyncio

        def test_it(server, prompt, ask):
            async def main():
                return ask(prompt(100), 2)

            assert asyncio.run(main()).ending == "complete"
        """
    )
    run("--backend=miniature", what=str(pytester.path)).outcome.assert_outcomes(passed=1)


def test_a_token_without_text_is_a_token(run, pytester):
    """Random weights give ids without text in the tokenizer. Their chunks are empty but count as tokens."""
    pytester.makepyfile(
        """
        from pytest_longctx.client.request import StreamedRequest
        from pytest_longctx.prompts import PromptFactory

        def test_it(server):
            talk = StreamedRequest(server, PromptFactory(1, "k", (1, 9))(5), 2, 1.0, print)
            talk._take({"choices": [{"text": "", "finish_reason": None}]}, 1.0)
            talk._take({"choices": [{"text": "", "finish_reason": "length"}]}, 2.0)
            assert talk.arrivals_s == [1.0]
        """
    )
    run("--backend=miniature", what=str(pytester.path)).outcome.assert_outcomes(passed=1)


def test_published_claims_are_judged_without_a_server(run):
    done = run("--backend=vllm", "-m", "claims", "--longctx-hardware=cpu")
    assert set(verdicts(done).values()) == {"holds"}
    assert done.results.boots == []
    assert done.outcome.ret == pytest.ExitCode.OK


def test_claims_beside_findings_that_need_a_server_do_not_make_a_run_green(run):
    done = run("--backend=vllm", "-m", "claims or ten_million", "--longctx-hardware=cpu")
    assert set(verdicts(done).values()) == {"holds", "out of scope"}
    assert done.outcome.ret == pytest.ExitCode.TESTS_FAILED


def test_a_time_limit_of_the_project_does_not_end_a_slow_prefill(run, pytester, faulty):
    """A time limit that ends a test while its server works would cause the failure it reports."""
    options = faulty("late-first-token")
    pytester.makeini("[pytest]\naddopts = --strict-markers\ntimeout = 0.3\ntimeout_func_only = true\n")
    done = run("--backend=miniature", options, "-k", "LC-0002")
    assert verdicts(done) == {"LC-0002": "holds"}


def test_a_parameter_of_somebody_elses_called_deployment_is_left_alone(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("deployment", ["blue", "green"])
        def test_it(deployment): pass
        """
    )
    run("--backend=miniature", what=str(pytester.path)).outcome.assert_outcomes(passed=2)


def test_no_test_has_a_time_limit_shorter_than_its_waits(run, pytester):
    """
    The limit covers the boot and the requests together; without known times there is none. The project's own limit applies to
    other tests.
    """
    pytester.makeini("[pytest]\naddopts = --strict-markers\ntimeout = 1\n")
    pytester.makepyfile(
        reads_limits="""
        from pathlib import Path

        def pytest_collection_finish(session):
            marks = {item.name: item.get_closest_marker("timeout") for item in session.items}
            Path("limits").write_text("".join(f"{name} {mark and mark.args[0]}\\n" for name, mark in marks.items()))
        """
    )
    pytester.syspathinsert()
    run("--backend=miniature", "-k", "MN-0040 or LC-0001", "--collect-only", "-p", "reads_limits")
    limits = dict(line.split(" ") for line in (pytester.path / "limits").read_text().splitlines())
    served = next(value for name, value in limits.items() if "LC-0001" in name)
    unknown = next(value for name, value in limits.items() if "MN-0040" in name)
    assert float(served) > 10 + 120 + 300
    assert float(unknown) == 0
