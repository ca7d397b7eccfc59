"""Servers that are correct in a way of their own: no check is confidently wrong about them."""

from typing import Any

import pytest

from pytest_longctx import cli
from pytest_longctx.certificate import run
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.certificate.dialects import known
from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import Whole
from pytest_longctx.miniatures.hosted.faults.answers import ChangesGreedyAnswers
from pytest_longctx.miniatures.hosted.faults.path import RefusesBodiesOver32KiB
from pytest_longctx.miniatures.hosted.wire import serving
from tests.unit.certificate import strangers
from tests.unit.certificate.endpoints import KEY, certified, result, words

LIMIT = 6_000


def stranger(kind, **options):
    return certified(kind(limit=LIMIT, key=KEY, **options), model="miniature", claim=LIMIT)


@pytest.mark.parametrize(
    "kind",
    [
        strangers.WantsSixteen,
        strangers.RefusesVaguely,
        strangers.HasNoVersion,
        strangers.Reasons,
        strangers.AnswersInParts,
        strangers.NamesStreamsPlain,
        strangers.IgnoresStream,
        strangers.EndsAfterEight,
        strangers.FallsSilent,
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_way_of_its_own_breaks_nothing_and_hides_no_limit(kind):
    certificate = stranger(kind)
    assert words(certificate, "broken") == []
    assert certificate.context == LIMIT


def test_an_answer_without_an_end_is_left():
    api = strangers.KnowsOnlyMaxTokens(limit=LIMIT, key=KEY)
    certificate = certified(api, claim=LIMIT)
    assert words(certificate, "broken") == ["answer-max-completion-tokens"]
    assert "it went on when it was closed" in result(certificate, "answer-max-completion-tokens").seen
    assert 0 < api.written < 100_000


def test_what_an_answer_without_an_end_has_is_taken_from_the_budget():
    api = strangers.KnowsOnlyMaxTokens(limit=LIMIT, key=KEY)
    with serving(api) as url:
        wire = run.Wanted(url, "miniature", budget=Budget(10_000)).wire()
        asked: dict[str, Any] = {"max_tokens": None, "max_completion_tokens": 16, "stream": True}
        reply = wire.ask(known()[0], (("user", "Go on."),), "miniature", 16, **asked)
        wire.close()
    assert reply.hung_up
    assert wire.budget.answer_tokens == len(reply.arrivals_s) > 16


def certified_slowly(api):
    """The certificate of a server whose clock a waiting client moves on."""
    with serving(api) as url:
        wanted = run.Wanted(url, "miniature", LIMIT, Budget(4_000_000), seed=1, deadline_s=20.0)
        wire = wanted.wire()
        wire.sleep, wire.clock = api.sleep, api.now_s
        return run.certify(wanted, wire)


@pytest.mark.parametrize(("every_s", "tells"), [(1.0, True), (1.0, False), (30.0, True)])
def test_a_server_of_one_request_at_a_time_is_waited_for_and_not_accused(every_s, tells):
    certificate = certified_slowly(strangers.OneAtATime(limit=LIMIT, key=KEY, every_s=every_s, tells=tells))
    assert words(certificate, "broken") == []
    assert result(certificate, "time-rate-limit").word == "holds"
    assert certificate.context == LIMIT


def test_a_pace_is_learnt_so_that_few_requests_are_refused():
    api = strangers.OneAtATime(limit=LIMIT, key=KEY, every_s=1.0)
    certificate = certified_slowly(api)
    assert api.limited < 0.2 * certificate.budget["requests"]


def test_a_pause_after_a_failure_is_no_pace():
    """LiteLLM pauses for 5 s after a 404 of the server behind it. That time between all requests made a certificate last for minutes."""
    api = strangers.PausesAfterMissing(limit=LIMIT, key=KEY, every_s=5.0)
    certificate = certified_slowly(api)
    assert words(certificate, "broken") == []
    assert api.limited > 0
    assert api.passed_s < 5.0 * (api.limited + 3)


def test_a_server_that_tells_no_time_and_wants_a_long_one_is_said_to_tell_none():
    certificate = certified_slowly(strangers.OneAtATime(limit=LIMIT, key=KEY, every_s=300.0, tells=False))
    assert words(certificate, "broken") == ["time-rate-limit"]
    assert result(certificate, "time-rate-limit").seen.endswith("no refusal stated how long to wait")


def test_usage_that_only_streams_have_calibrates_lengths():
    certificate = stranger(strangers.CountsInStreamsOnly)
    assert words(certificate, "broken") == ["count-present"]
    assert certificate.context == LIMIT
    assert certificate.interval.endswith("by the usage in streams")


def test_lengths_in_words_contradict_no_claim_and_are_called_words():
    certificate = certified(strangers.CountsNothing(limit=LIMIT, key=KEY), claim=3 * LIMIT)
    assert words(certificate, "broken") == ["count-present"]
    claim = result(certificate, "length-claim")
    assert (claim.word, claim.because) == ("unmeasured", "a filler word may have several tokens")
    assert (certificate.context, certificate.longest, certificate.read_tokens) == (None, None, None)
    assert "filler words; the server does not report their tokens" in certificate.headline
    assert "the server reports no usage" in certificate.interval


@pytest.mark.parametrize("hidden", [True, False])
def test_a_model_that_reasons_first_is_read_to_the_end(hidden):
    certificate = stranger(strangers.Reasons, hidden=hidden)
    recall = result(certificate, "truncation-recall")
    assert (recall.word, recall.figures["reasoning_tokens"]) == ("holds", 2048)
    assert result(certificate, "truncation-middle").word == "holds"


def test_an_answer_that_ends_in_reasoning_shows_no_truncation():
    certificate = certified(strangers.Reasons(limit=40_000, key=KEY, share=0.5), claim=40_000)
    assert words(certificate, "broken") == []
    assert "reached its token limit before it contained all codes" in result(certificate, "truncation-head").because


def test_reasoning_that_only_the_total_counts_is_no_wrong_count():
    certificate = stranger(strangers.Reasons, least_tokens=5, in_total_only=True)
    assert words(certificate, "broken") == []
    assert result(certificate, "count-total").word == "unmeasured"


def test_a_model_that_falls_silent_before_long_texts_drops_no_part_of_them():
    certificate = certified(strangers.FallsSilent(limit=30_000, key=KEY), claim=30_000)
    assert words(certificate, "broken") == []
    assert result(certificate, "truncation-head").word == "unmeasured"


def test_a_token_that_usage_leaves_out_breaks_no_claim():
    certificate = stranger(strangers.LeavesTheStartOut)
    assert words(certificate, "broken") == ["length-told"]
    assert "the refusals name the claimed length" in result(certificate, "length-claim").because


def test_a_limit_of_bytes_is_not_called_one_of_tokens():
    certificate = certified(RefusesBodiesOver32KiB(limit=16_384, key=KEY))
    counted = result(certificate, "length-counted")
    assert (counted.word, counted.figures["rule"]) == ("holds", "the size of the request")
    assert certificate.headline.endswith("limited by the size of the request")


def test_the_whole_url_of_an_example_is_understood():
    with serving(HostedApi(limit=LIMIT, key=KEY)) as url:
        wanted = run.Wanted(f"{url}/v1/chat/completions", "miniature", LIMIT, Budget(400_000), seed=1)
        assert run.certify(wanted, wanted.wire()).context == LIMIT


def test_a_list_of_answers_with_a_least_length_is_within_the_budget():
    """Responses has answers of at least 16 tokens: they are reserved."""
    api = HostedApi(limit=LIMIT, key=KEY, dialects=("responses",))
    certified(api, budget=Budget(20_000))
    assert sum((each.prompt_tokens or 0) + (each.max_tokens or 0) for each in api.received) <= 20_000


@pytest.mark.parametrize("kind", [float, str])
def test_counts_that_are_no_integers_in_json_are_counts(kind):
    class Writes(HostedApi):
        def whole(self, *asked):
            body = super().whole(*asked)
            body["usage"] = {name: kind(value) for name, value in body["usage"].items()}
            return body

    certificate = certified(Writes(limit=LIMIT, key=KEY, reports_cached=False), claim=LIMIT)
    assert words(certificate, "broken") == []
    assert certificate.context == LIMIT


def test_answers_of_a_server_without_a_temperature_may_differ():
    class Samples(strangers.RefusesTemperature, ChangesGreedyAnswers):
        pass

    certificate = certified(Samples(limit=LIMIT, key=KEY), claim=LIMIT)
    assert words(certificate, "broken") == []
    assert "does not accept `temperature`" in result(certificate, "answer-repeatable").because


def test_a_redirect_on_the_same_host_is_named(capsys):
    class Moves(HostedApi):
        def post(self, post):
            return Whole(307, "", {"Location": f"{post.path}/"})

    with serving(Moves(limit=LIMIT, key=KEY)) as url:
        assert cli.main(["certify", url, "--model=miniature"]) == 2
    assert "the address of the redirect" in capsys.readouterr().err
