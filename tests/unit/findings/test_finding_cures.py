import pytest

from pytest_longctx import paths, plan
from pytest_longctx.backends import Backend
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.errors import TableError
from pytest_longctx.findings.finding import Finding, load_all
from pytest_longctx.registry import BACKENDS, load
from pytest_longctx.reports import pages
from tests.unit import factories

FAILS = {"question": "boot-fails", "expect": {"outcome": "runs out of memory"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"cure": "TT-0002"},
        {"no_cure": "none is needed"},
        {"question": "kv-dtype", "ask": {"prompt_tokens": 1}, "cure": "TT-0002"},
    ],
)
def test_only_an_expected_failure_has_a_cure_or_a_reason_why_not(changes):
    with pytest.raises(TableError, match="allowed only in a finding that expects a failed boot"):
        factories.finding(**changes)


def test_a_finding_has_a_cure_or_a_reason_why_not_but_not_both():
    with pytest.raises(TableError, match="a finding must not have both keys"):
        factories.finding(**FAILS, cure="TT-0002", no_cure="and none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"cure": "TT-0002"}, "Fix: TT-0002."), ({"no_cure": "it is too old"}, "No fix: it is too old.")],
)
def test_the_page_of_a_document_names_the_cure(changes, message):
    (page,) = (
        text for name, text in pages.pages([factories.finding(**FAILS, **changes)]).items() if name != "README.md"
    )
    assert f"**TT-0001**. {message}" in page


FINDINGS = load_all((paths.suites() / "findings",))
DEPLOYMENTS = deployment.load_all((paths.suites() / "deployments",))
DOCUMENTED: dict[str, tuple[str, dict[str, float], str]] = {
    "SGLang at 2M with graphs": ("SC-0007", {"mem-fraction-static": 0.85}, "SC-0034"),
    "SGLang at 2M with its defaults": ("SC-0033", {}, "SC-0034"),
    "SGLang at 10M with 0.80": ("SC-0008", {"mem-fraction-static": 0.80}, "SC-0009"),
    "SGLang at 10M with 0.75": ("SC-0035", {"mem-fraction-static": 0.75}, "SC-0009"),
    "SGLang at 10M with 0.70": ("SC-0036", {"mem-fraction-static": 0.70}, "SC-0009"),
    "SGLang at 10M with 0.65": ("SC-0037", {"mem-fraction-static": 0.65}, "SC-0009"),
    "vLLM at 8M with 0.95": ("SC-0004", {"gpu-memory-utilization": 0.95}, "SC-0017"),
    "Neuron at 16K with prefix caching": ("NE-0018", {"num-gpu-blocks-override": 4096}, "NE-0015"),
    "Neuron at 32K with prefix caching": ("NE-0019", {"num-gpu-blocks-override": 8192}, "NE-0025"),
    "Neuron's SBUF": ("NE-0007", {}, "NE-0024"),
    "Neuron's HLO at batch 1": ("NE-0020", {}, "NE-0005"),
    "Neuron's HLO at batch 2": ("NE-0021", {}, "NE-0005"),
}


def foreseen(finding: Finding) -> Prediction | None:
    """Return the prediction for the finding's deployment on its own hardware."""
    (name,) = finding.scope.deployment
    one = DEPLOYMENTS[name]
    backend: Backend = load(BACKENDS[one.backend])()
    assert one.hardware is not None
    return plan.predict(one, backend, Machine(Hardware.parse(one.hardware)))


@pytest.mark.parametrize("what", DOCUMENTED)
def test_every_documented_failure_stands_beside_its_cure(what):
    name, flags, cure = DOCUMENTED[what]
    finding = FINDINGS[name]
    assert {"expected_oom", "expected_failure"} & set(finding.markers)
    assert finding.cure == cure
    assert DEPLOYMENTS[finding.scope.deployment[0]].flags.items() >= flags.items()


@pytest.mark.parametrize("name", [name for name, each in FINDINGS.items() if each.cure and each.scope.hardware])
def test_the_cure_of_a_predicted_out_of_memory_is_the_one_that_is_predicted(name):
    """The documented remedy also prevents the failure in the prediction."""
    predicted = foreseen(FINDINGS[name])
    if predicted is None or predicted.outcome != "runs out of memory":
        return
    cure = FINDINGS[FINDINGS[name].cure or ""]
    flag, value = predicted.cure.removeprefix("--").split()
    flags = DEPLOYMENTS[cure.scope.deployment[0]].flags
    # Graphs are captured for at most as many requests as can run.
    assert float(value) in {float(flags[each]) for each in (flag, "max-running-requests") if each in flags}
    cured = foreseen(cure)
    assert cured is not None
    assert cured.outcome == "serves"


def test_the_arithmetic_knows_of_each_documented_out_of_memory_of_a_gpu():
    for name, _, _ in DOCUMENTED.values():
        predicted = foreseen(FINDINGS[name])
        assert (predicted is None) is name.startswith("NE")
        assert predicted is None or predicted.outcome == FINDINGS[name].expect.outcome
