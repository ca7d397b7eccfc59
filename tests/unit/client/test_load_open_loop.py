"""Open loops: when requests are due, when their times start, and the share of requests that meet the targets."""

import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from threading import Lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import registry
from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client.adapters import LoadTool, ToolRun, runner
from pytest_longctx.client.load import Load, observe, offered_share, offsets, run
from pytest_longctx.client.server import Server
from pytest_longctx.errors import PromptError
from pytest_longctx.findings.ask import Ask
from pytest_longctx.findings.scope import Case
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.miniatures.server import Honest
from tests.unit import factories
from tests.unit.fake_engine import prompts, serving

RATES = st.floats(0.01, 1000)


@given(st.integers(1, 50), RATES, st.sampled_from(["poisson", "constant"]), st.integers(0, 2**32))
def test_requests_are_due_one_after_the_other_and_the_same_for_the_same_seed(requests, rate, arrivals, seed):
    due = offsets(requests, rate, arrivals, seed)
    assert len(due) == requests
    assert due[0] == 0.0
    assert list(due) == sorted(due)
    assert due == offsets(requests, rate, arrivals, seed)


def test_arrivals_at_random_have_the_rate_and_the_spread_of_independent_clients():
    gaps = [later - earlier for earlier, later in pairwise(offsets(20_001, 4.0, "poisson", 7))]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert sum(gap > 0.25 for gap in gaps) / len(gaps) == pytest.approx(0.368, rel=0.05)  # 1 / e of an exponential
    assert offsets(3, 4.0, "poisson", 7) != offsets(3, 4.0, "poisson", 8)


class OneAtATime(Honest):
    """Processes one request at a time, for 20 ms each."""

    def __init__(self):
        super().__init__()
        self.desk, self.most = Lock(), 0

    def events(self, request):
        self.most = max(self.most, self.running)
        with self.desk:
            time.sleep(0.02)
        yield from super().events(request)


LOAD = {"prompt_tokens": 20, "output_tokens": 2, "requests": 10, "rate_per_s": 1000}


def asked(**changes):
    return Ask(**{"prompt_tokens": 20, "output_tokens": 2, "requests": 10, **changes})


def test_a_server_that_falls_behind_is_not_waited_for():
    """At 1,000 requests per second, the last of ten requests waits for nine others. A closed loop would not show that."""
    with serving(mind := OneAtATime()) as server:
        opened = run(server, prompts(), asked(rate_per_s=1000, arrivals="constant"))
        closed = run(server, prompts(), asked(concurrency=1))
    assert mind.most > 1
    assert max(each.ttft_s or 0 for each in opened.exchanges) > 10 * 0.02 - 9 / 1000
    assert observe(opened).metrics["ledger_gap_tokens"] == 0
    assert (closed.send_delay_s, observe(closed).metrics["send_delay_max_s"]) == (None, None)


def test_what_the_client_sends_late_has_waited():
    """
    Prompts that take 20 ms to build cannot be sent 1,000 times a second. The last one is late by nine of them, and its delay
    is recorded.
    """
    factory = prompts()

    def slowly(tokens):
        time.sleep(0.02)
        return factory(tokens)

    with serving(Honest()) as server:
        late = run(server, slowly, asked(rate_per_s=1000, arrivals="constant"))
    assert (late.send_delay_s or 0) > 9 * 0.02 - 9 / 1000
    assert (late.exchanges[-1].ttft_s or 0) > 9 * 0.02 - 9 / 1000
    assert observe(late).metrics["send_delay_max_s"] == late.send_delay_s
    assert (late.offered_share or 1) < 9 / 1000 / (9 * 0.02)
    (line,) = (
        line
        for line in judge(factories.finding(question="load", ask=LOAD), observe(late)).lines
        if line.measure == "offered_share"
    )
    assert (line.ok, "too slowly" in line.change) == (None, True)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20))
def test_no_client_offers_more_than_it_was_asked_for(requests):
    due_s = tuple(sorted(due for due, _ in requests))
    share = offered_share(due_s, [delay for _, delay in requests])
    assert (share is None) is (due_s[-1] <= 0)
    assert share is None or 0 < share <= 1
    assert share is None or offered_share(due_s, [0.0] * len(due_s)) == 1


def timed(ttft_s, chunk_s=0.5):
    """Return three tokens, the first after *ttft_s*."""
    arrivals_s = tuple(50 + ttft_s + chunk_s * i for i in range(3))
    usage = factories.exchange().usage
    return factories.exchange(asked_tokens=4, arrivals_s=arrivals_s, ended_s=60.0, usage=usage)


@pytest.mark.parametrize(
    ("goals", "share"),
    [
        ({"goal_ttft_s": 2.0}, 0.75),
        ({"goal_ttft_s": 0.5}, 0.0),
        ({"goal_tpot_s": 0.34}, 0.75),  # two gaps over three tokens: 0.333 s, and 0.667 s for the slow one
        ({"goal_ttft_s": 2.0, "goal_tpot_s": 0.34}, 0.5),
    ],
)
def test_a_good_request_meets_every_goal(goals, share):
    seen = observe(Load((timed(1.0), timed(2.0), timed(3.0), timed(1.0, chunk_s=1.0))), **goals)
    assert seen.metrics["good_share"] == share
    assert seen.metrics["goodput_per_s"] == pytest.approx(4 * share / 10)


def test_without_a_goal_nothing_is_good_or_bad():
    assert "good_share" not in observe(Load((timed(1.0),))).metrics


def test_a_time_that_was_not_seen_meets_no_goal_and_misses_none():
    one_chunk = factories.exchange(arrivals_s=(52.0,))
    seen = observe(Load((timed(1.0), one_chunk)), goal_tpot_s=9.0)
    assert (seen.metrics["good_share"], seen.metrics["goodput_per_s"]) == (None, None)


def test_the_percentiles_are_three():
    seen = observe(Load(tuple(timed(1.0 + i) for i in range(11)))).metrics
    assert [seen[f"ttft_{part}_s"] for part in ("p50", "p90", "p99")] == pytest.approx([6.0, 10.0, 10.9])


@pytest.mark.parametrize("how", [{}, {"rate_per_s": 1.0, "concurrency": 1}])
def test_a_load_is_open_or_closed(how):
    server = Server("http://127.0.0.1:1", "m", Miniature(), factories.deployment(), "url", attached=True)
    with pytest.raises(PromptError, match="either concurrency or rate_per_s"):
        run(server, prompts(), asked(**how))


@pytest.mark.parametrize("name", registry.LOADS)
def test_other_tools_refuse_an_open_loop_and_send_nothing(name, tmp_path):
    server = Server("http://127.0.0.1:1", "m", Miniature(), factories.deployment(), "url", attached=True)
    tool: LoadTool = registry.load(registry.LOADS[name])()
    found = runner.run_load(tool, ToolRun(server, asked(rate_per_s=5.0), 7, Path(tmp_path) / "none"))
    assert (found.exchanges, found.measured_by) == ((), name)
    assert found.said.startswith(f"{name}: cannot send open loops (ask.rate_per_s) correctly")
    assert observe(found).outcome is None
    assert not (tmp_path / "none").exists()


def test_a_test_may_take_as_long_as_its_requests_take_to_come():
    slow = {"boot_s": 100, "answer_s": 10, "slowest_prefill_tokens_per_s": 1000, "slowest_decode_tokens_per_s": 1}
    ask = {"prompt_tokens": 100, "requests": 20, "rate_per_s": 2.0, "output_tokens": 1}
    case = Case(factories.finding(question="load", ask=ask), factories.deployment(timeouts=slow))
    assert case.patience_s == pytest.approx(100 + 20 + (10 + 2 + 1))
