"""The shipped findings: what their status claims, and bounds that a useless server cannot meet."""

import pytest

from pytest_longctx import paths
from pytest_longctx.deployments.deployment import load_all as load_deployments
from pytest_longctx.findings.finding import load_all
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.observation import Observation
from pytest_longctx.toml import in_range

FINDINGS = load_all((paths.suites() / "findings",))
DEPLOYMENTS = load_deployments((paths.suites() / "deployments",))
OWN = ("docs/", "vLLM 0.25.1 on H200", "SGLang 0.5.16 on one H200")
"""Documents of this project; the last two are results of it, in docs/results."""
SERVED = {"ttft_s": 1.0, "e2e_s": 1.0, "server_prompt_tokens": None}
OF_A_USELESS_CACHE = {"cached_share": 0.0, "cached_tokens": 0.0, "reused_share": 0.0, "warm_speedup": 1.02}
OF_A_USELESS_CACHE |= {"turn_speedup": 1.02, "hit_share": 0.0, "external_tokens": 0.0}

every_finding = pytest.mark.parametrize("shipped", FINDINGS.values(), ids=FINDINGS)


@every_finding
def test_only_what_was_measured_or_judged_here_is_confirmed(shipped):
    own = shipped.source.document.startswith(OWN)
    assert shipped.status != "confirmed" or own or shipped.on_paper
    assert shipped.status != "documented" or not own


@every_finding
def test_an_expected_failure_is_marked_by_its_cause(shipped):
    """``-m expected_oom`` selects failures for lack of memory, and no others."""
    memory = shipped.question == "boot-fails" and (
        shipped.expect.outcome in ("runs out of memory", "overcommits")
        or shipped.expect.signature == "kv-cache-too-small"
        or shipped.scope.host_gib_at_most is not None
    )
    marked = {"expected_oom", "expected_failure"} & set(shipped.markers)
    assert marked == ({"expected_oom"} if memory else {"expected_failure"} if shipped.fails else set())


def met(shipped):
    """Figures that meet every bound of *shipped*."""
    limits = {name: bound.limits for name, bound in shipped.bounds.items()}
    return {name: low if low is not None else high if high is not None else 1.0 for name, (low, high) in limits.items()}


@every_finding
def test_no_finding_about_a_cache_holds_on_a_cache_that_does_nothing(shipped):
    if shipped.question not in ("repeated", "turns") or shipped.expect.outcome != "serves":
        return
    seen = Observation("serves", {**met(shipped), **OF_A_USELESS_CACHE})
    assert judge(shipped, seen).word != "holds"


@every_finding
def test_no_bound_is_wider_than_a_factor_of_ten(shipped):
    for low, high in (bound.limits for bound in shipped.bounds.values()):
        assert not low or high is None or high <= 10 * low


RUNS = {1.620345: 120, 2.845646: 334.91, 4.908091: 957.07, 6.378187: 1547}
"""Uncached runs of vLLM 0.12 with a BF16 KV cache: millions of tokens, and seconds."""


def law_s(millions):
    bounds = FINDINGS["SC-0080"].bounds
    return (bounds["law_linear_s"].reference or 0) * millions + (bounds["law_quadratic_s"].reference or 0) * millions**2


@pytest.mark.parametrize("millions", RUNS)
def test_the_law_of_vllm_is_that_of_the_runs_it_names(millions):
    assert law_s(millions) == pytest.approx(RUNS[millions], rel=0.03)
    assert f"{millions:.2f}M" in FINDINGS["SC-0080"].note


def test_the_run_with_an_fp8_cache_is_named_as_no_part_of_that_law():
    assert law_s(9.811859) / 2964.4 == pytest.approx(1.245, abs=0.005)
    assert "9.81M tokens is no\npart of it" in FINDINGS["SC-0080"].note


@pytest.mark.parametrize("name", ["LC-0081", "SG-0033"])
def test_what_is_said_of_a_disconnect_from_sglang_leaves_out_the_version_that_read_on(name):
    assert "sglang" in FINDINGS[name].scope.backend
    assert not in_range("0.5.6.post2", FINDINGS[name].scope.version or "")
    assert in_range("0.5.6.post2", FINDINGS["SC-0081"].scope.version or "==0")
