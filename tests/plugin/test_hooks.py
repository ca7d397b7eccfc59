"""Extensions and changes by another plugin or a project's conftest.py."""

BACKEND = """
from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.deployments.capacity import Prediction, Term

class Mine(Miniature):
    name = "mine"
    failures = "vllm"

    def predict(self, deployment, shape, device_bytes):
        return Prediction("serves", (Term("KV pool", 2.0**30),), 4096, 2.0)

def pytest_longctx_make_backend(name):
    return Mine() if name == "mine" else None

def pytest_longctx_names(what):
    return ["mine"] if what == "backend" else []

def pytest_longctx_describe_machine(machine):
    machine.facts["rack"] = "B12"

def pytest_longctx_judged(item, verdict):
    with open("judged", "a") as out:
        print(verdict.finding.id, verdict.word, item.name, file=out)
"""

MINE = """
name = "mine"
title = "a deployment of this test"
backend = "mine"
max_model_len = 4096
[model]
name = "miniature"
weights = "unknown"
make = "tiny-llama4"
"""


BOOTS = """
id = "XX-0004"
title = "it comes up"
question = "boots"
markers = ["boot"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
backend = "mine"
"""


def test_a_project_brings_its_own_backend(run, pytester):
    pytester.syspathinsert()
    pytester.makepyfile(of_project=BACKEND)
    pytester.mkdir("deployments").joinpath("mine.toml").write_text(MINE)
    done = run("--backend=mine", "--longctx-data=.", "-m", "smoke", "-p", "of_project")
    done.outcome.assert_outcomes(passed=2)
    assert done.results.header["machine"]["rack"] == "B12"
    (boot,) = done.results.boots
    assert boot["predicted"]["concurrency"] == 2.0
    assert boot["predicted"]["terms"] == [
        {"name": "KV pool", "size_bytes": 2.0**30, "host": False, "bounds_bytes": None}
    ]
    assert sorted((pytester.path / "judged").read_text().splitlines()) == [
        "LC-0001 holds test_length_is_served[LC-0001-mine]",
        "LC-0030 holds test_tokens_are_counted[LC-0030-mine]",
    ]


def test_a_prediction_that_a_boot_does_not_bear_out_is_named_in_the_verdict(run, pytester):
    pytester.syspathinsert()
    fails = 'Prediction("runs out of memory", (), 0, culprit=Term("tables", 2.0**36))'
    pytester.makepyfile(
        of_project=BACKEND.replace('Prediction("serves", (Term("KV pool", 2.0**30),), 4096, 2.0)', fails)
    )
    pytester.mkdir("deployments").joinpath("mine.toml").write_text(MINE)
    pytester.mkdir("findings").joinpath("XX-0004.toml").write_text(BOOTS)
    done = run("--backend=mine", "--longctx-data=.", "-k", "XX-0004", "-p", "of_project")
    (verdict,) = done.results.verdicts
    assert verdict["verdict"] == "holds"
    assert verdict["why"] == (
        "predicted that it runs out of memory (tables 64.00 GiB), but it started as documented: "
        "the prediction is wrong, or this machine differs from the assumed machine"
    )


def test_its_name_is_among_the_known_ones(run, pytester):
    pytester.syspathinsert()
    pytester.makepyfile(of_project=BACKEND)
    done = run("--backend=mein", "-p", "of_project")
    assert "Known: mine, miniature, miniature-sglang, openai, sglang, transformers, vllm, vllm-cpu" in done.text


def test_a_deployment_can_be_made_in_code(run, pytester):
    """Settings that a project can change are fixtures that it can override."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_longctx.deployments.deployment import Deployment, Model

        @pytest.fixture(scope="session")
        def deployment():
            model = Model(name="miniature", weights="unknown")
            return Deployment(name="coded", title="t", backend="miniature", model=model, max_model_len=5000)

        @pytest.fixture(scope="session")
        def longctx_seed():
            return 5

        def test_it(server, prompt, ask):
            exchange = ask(prompt(4000), 8)
            assert exchange.usage.prompt_tokens == 4000
            assert server.max_model_len == 5000
            assert prompt(10).seed == 5
        """
    )
    run("--backend=miniature", what=str(pytester.path)).outcome.assert_outcomes(passed=1)


def test_a_test_without_a_finding_runs_on_every_deployment_that_fits(run, pytester):
    pytester.makepyfile("def test_it(server, ask, prompt): assert ask(prompt(100), 4).ending == 'complete'")
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.assert_outcomes(passed=1)  # the other two are used only by findings that name them


def test_a_test_may_name_several_findings(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.finding("LC-0001", "LC-0002")
        def test_it(finding, server, prompt, ask, judge):
            verdict = judge(ask(prompt(finding.ask.prompt_tokens), finding.ask.output_tokens))
            assert verdict
        """
    )
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.assert_outcomes(passed=2)
    assert done.results.footer["verdicts"] == {"holds": 2}
