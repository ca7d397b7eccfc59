"""Drift is judged within one run or over two, from the readings of two boots; a planted garble is red."""

import numpy as np
import pytest

from pytest_longctx import paths
from pytest_longctx.reports import html

DEPLOYMENT = """
name = "{name}"
title = "a miniature"
backend = "{backend}"
max_model_len = 65_536
only_named = true
model = {{ name = "miniature", weights = "unknown" }}
timeouts = {{ boot_s = 30, admission_s = 1 }}
{flags}
"""

FINDING = """
id = "XX-0004"
title = "the same predictions"
question = "drift"
markers = ["trained"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
deployment = {names}
[ask]
against = "reference"
prompt_tokens = 200
runs = {runs}
[bounds.drift_ratio]
unit = "x"
at_most = {at_most}
[bounds.drift_repeats_apart]
unit = "runs"
"""


@pytest.fixture
def judged(run):
    """``judged("--backend=miniature")``: judge the finding by the suite of its question."""
    return lambda *options: run(*options, "-k", "XX-0004", what=str(paths.suites() / "drift"))


@pytest.fixture
def project(pytester):
    """A project with a reference, another deployment with a fault, and a finding about both."""

    def write(fault="honest", *, at_most=3, names='["reference", "other"]', backend="miniature", runs=1):
        for folder in ("deployments", "findings"):
            (pytester.path / folder).mkdir(exist_ok=True)
        deployments = pytester.path / "deployments"
        for name, played in (("reference", "honest"), ("other", fault)):
            flags = f'fault = "{played}"' if backend == "miniature" else 'dialect = "sglang"'
            content = DEPLOYMENT.format(name=name, backend=backend, flags=f"flags = {{ {flags} }}")
            (deployments / f"{name}.toml").write_text(content)
        finding = FINDING.format(names=names, at_most=at_most, runs=runs)
        (pytester.path / "findings" / "XX-0004.toml").write_text(finding)
        return "--longctx-data=."

    return write


@pytest.mark.parametrize("backend", ["miniature", "miniature-sglang"])
def test_two_servers_with_the_same_model_differ_by_their_noise_alone(judged, project, backend):
    done = judged(f"--backend={backend}", project(backend=backend, runs=5))
    first, last = done.results.verdicts
    assert (first["verdict"], last["verdict"]) == ("out of scope", "holds")
    assert "has not been booted in this run; judged at the later boot of the two" in first["why"]
    seen = last["measured"]
    assert seen["drift_repeats"] == 5
    assert seen["drift_repeats_apart"] == 0
    assert seen["drift_positions"] == 4 * 199
    assert 0.5 < seen["drift_ratio"] < 2
    assert 1e-10 < seen["drift_nats"] < 1e-7
    assert [(row["from_tokens"], row["to_tokens"]) for row in done.results.drifts] == [
        *((1, 16), (16, 32), (32, 64), (64, 128), (128, 200)),
    ]
    assert last["said"].startswith("against reference, miniature")


@pytest.mark.parametrize(("fault", "least_ratio"), [("coarse-cache", 1e4), ("garbled-cache", 1e6)])
def test_a_wrong_cache_is_red_by_orders_of_magnitude(judged, project, fault, least_ratio):
    done = judged("--backend=miniature", project(fault))
    *_, last = done.results.verdicts
    assert last["verdict"] == "broken"
    assert last["why"].startswith("drift_ratio: ")
    assert last["measured"]["drift_ratio"] > least_ratio
    assert last["measured"]["drift_repeats_apart"] == 1
    assert done.outcome.ret == 1
    assert "Drift over the distance from the start" in html.page(done.results)


def test_the_reading_of_an_earlier_run_is_the_reference(judged, project):
    data = project("coarse-cache", at_most=1e9)
    alone = judged("--backend=miniature", data, "--longctx-deployment=other")
    (none,) = alone.results.verdicts
    assert none["why"].startswith("against: reference has not been read yet (")
    assert ": judge this finding on that deployment first, in this run or in an earlier run" in none["why"]
    judged("--backend=miniature", data, "--longctx-deployment=reference")
    later = judged("--backend=miniature", data, "--longctx-deployment=other")
    (only,) = later.results.verdicts
    assert only["verdict"] == "holds"
    assert only["measured"]["drift_nats"] > 1e-4


def test_the_same_deployment_is_read_twice_in_one_boot(judged, project):
    done = judged("--backend=miniature", project(names='["reference"]'))
    (only,) = done.results.verdicts
    assert only["verdict"] == "holds"
    assert only["measured"]["drift_ratio"] == pytest.approx(1, rel=0.5)


def test_a_file_that_has_no_readings_is_named(judged, project, pytester):
    data = project()
    judged("--backend=miniature", data, "--longctx-deployment=other")
    (kept,) = (pytester.path / "results" / "drift").glob("other.*.npz")
    np.savez(kept.with_name(kept.name.replace("other", "reference")), about=np.zeros(3, dtype=np.uint8))
    done = judged("--backend=miniature", data, "--longctx-deployment=other")
    assert "must be a file of readings of a 'drift' finding" in done.outcome.stdout.str()
    assert done.outcome.ret == 1


REPEATABLE = """
id = "XX-0005"
title = "the same answer"
question = "repeatable"
markers = ["trained"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
deployment = ["reference", "other"]
[ask]
against = "other"
prompt_tokens = 100
output_tokens = 6
[bounds.answers_differing]
unit = "answers"
exactly = 0
"""


@pytest.mark.parametrize(("fault", "word"), [("scored-answers", "holds"), ("depends-on-company", "broken")])
def test_an_answer_is_compared_in_company_and_with_other_chunks(run, project, pytester, fault, word):
    data = project(fault)
    (pytester.path / "findings" / "XX-0005.toml").write_text(REPEATABLE)
    reference = pytester.path / "deployments" / "reference.toml"
    reference.write_text(reference.read_text().replace("honest", fault))
    done = run("--backend=miniature", "-k", "XX-0005", data, what=str(paths.suites() / "drift"))
    first, last = done.results.verdicts
    assert (first["verdict"], last["verdict"]) == ("out of scope", word)
    assert last["measured"]["answers_compared"] == 6
    assert last["measured"]["answers_differing"] == (2 if word == "broken" else 0)
    kept = {path.name.split(".")[0] for path in (pytester.path / "results" / "repeatable").glob("*.json")}
    assert kept == {"reference", "other"}
