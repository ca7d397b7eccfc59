"""Each fault of a hosted API is named by exactly one check, and the honest API by none."""

import pytest

from pytest_longctx.certificate.results import checks
from pytest_longctx.miniatures.hosted.faults import FAULTS
from pytest_longctx.miniatures.hosted.latency import Latency
from tests.unit.certificate.endpoints import certified_fault, words

NAMED_BY = {
    "honest": None,
    "drops-head": "truncation-head",
    "drops-tail": "truncation-tail",
    "drops-middle": "truncation-middle",
    "drops-head-and-counts-the-rest": "truncation-head",
    "replaces-middle-by-summary": "truncation-middle",
    "summarises": "truncation-scattered",
    "keeps-chance-passages": "truncation-scattered",
    "skips-block": "truncation-middle",
    "reads-32-kib": "truncation-tail",
    "drops-older-messages": "truncation-turns",
    "counts-characters": "count-unit",
    "estimates-from-characters": "count-unit",
    "counts-half-the-time": "count-present",
    "counts-anew-each-time": "count-repeat",
    "rounds-counts": "count-linear",
    "counts-no-further": "count-long",
    "counts-otherwise-in-stream": "count-stream",
    "counts-answer-in-words": "count-answer",
    "total-is-not-the-sum": "count-total",
    "makes-up-cached-tokens": "count-cached-fresh",
    "cached-above-common-prefix": "count-cached-prefix",
    "claims-more": "length-claim",
    "serves-more": "length-listed",
    "tells-another-limit": "length-told",
    "counts-template-twice": "length-told",
    "unequal-replicas": "length-sides",
    "fails-halfway": "length-below",
    "ignores-max-tokens": "answer-max-tokens",
    "ignores-max-completion-tokens": "answer-max-completion-tokens",
    "ignores-stop": "answer-stop",
    "returns-stop-sequence": "answer-stop",
    "says-stop-when-cut": "answer-finish",
    "changes-greedy-answers": "answer-repeatable",
    "answers-otherwise-from-cache": "answer-cached",
    "loses-end-of-stream": "answer-stream",
    "mixes-callers": "answer-own",
    "answers-500-for-over-length": "error-length-status",
    "hangs-for-over-length": "error-length-status",
    "closes-for-over-length": "error-length-status",
    "empty-200-for-over-length": "error-200",
    "error-with-200": "error-200",
    "page-for-over-length": "error-length-text",
    "says-nothing-for-over-length": "error-length-text",
    "goes-on-after-error": "error-length-stream",
    "streams-nothing-for-over-length": "error-length-stream",
    "breaks-after-over-length": "error-after",
    "accepts-any-key": "error-key",
    "accepts-any-model": "error-model",
    "accepts-bad-parameters": "error-parameter",
    "fails-on-bad-parameters": "error-parameter",
    "repeats-the-key": "error-echo",
    "refuses-bodies-over-32-kib": "error-length-text",
    "cuts-bodies-at-32-kib": "error-length-text",
    "buffers-streams": "time-stream",
    "reads-twice": "time-read-once",
    "storms-of-429": "time-rate-limit",
    "redirects-elsewhere": "error-redirect",
    "gives-up-on-silence": "time-silence",
    "closes-long-streams": "error-cut",
    "sends-after-done": "error-done",
}


def test_every_miniature_has_its_check():
    assert set(NAMED_BY) == set(FAULTS)
    assert set(NAMED_BY.values()) - {None} <= set(checks())


@pytest.mark.parametrize("fault", NAMED_BY)
def test_a_fault_is_named_by_exactly_one_check(fault):
    certificate = certified_fault(fault)
    assert words(certificate, "broken") == [NAMED_BY[fault]] * (NAMED_BY[fault] is not None)
    assert certificate.exit_status == (NAMED_BY[fault] is not None)


def test_an_honest_api_with_a_slow_decoder_passes_the_checks_of_streams():
    certificate = certified_fault("honest", latency=Latency("none", None, 200.0, 0))
    assert words(certificate, "broken") == []
    assert "time-stream" in words(certificate, "holds")


def test_every_check_is_on_the_page_of_the_reference():
    from tests.test_house import ROOT

    page = (ROOT / "docs/reference/certificate.md").read_text(encoding="utf-8")
    assert [name for name in checks() if f"| `{name}` |" not in page] == []
