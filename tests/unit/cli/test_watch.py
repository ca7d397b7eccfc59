"""``longctx watch``: readings of the real miniatures over HTTP, and of replayed metrics pages."""

import json
import time

import pytest

from pytest_longctx import backends, cli
from pytest_longctx.cli import watch
from pytest_longctx.client.request import ask
from pytest_longctx.client.server_metrics import ServerMetrics
from pytest_longctx.errors import LaunchError
from pytest_longctx.miniatures.server import Honest, Instead
from pytest_longctx.miniatures.sglang import Sglang
from tests.unit.fake_engine import prompts, serving

AT = "2026-11-29T12:00:00.000+00:00"


@pytest.mark.parametrize(("mind", "backend"), [(Honest, "miniature"), (Sglang, "miniature-sglang")])
@pytest.mark.parametrize("path", ["", "/", "/v1"])
def test_one_reading_of_each_dialect(capsys, mind, backend, path):
    with serving(mind(), backends.named(backend)) as server:
        ask(server, prompts()(20), 4)
        assert cli.main(["watch", server.url + path, "--once", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["running"], found["waiting"], found["first_tokens"]) == (0.0, 0.0, 1.0)
    assert found["kv_usage"] is not None
    assert found["ttft_s"] >= 0
    assert found["answer_tokens_per_s"] is None, "a first reading has no time to divide by"


def test_the_table_has_a_head_and_one_row_for_each_reading(capsys):
    with serving(Honest()) as server:
        assert cli.main(["watch", server.url, "--count=3", "--every=0.1"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["time", "UTC", "KV"]
    assert [row.split()[1:4] for row in rows] == [["0.0%", "0", "0"]] * 3


def replayed(*pages, count=None):
    """Return the readings of *pages*, one in two seconds; a page may be an error."""
    left, now_s = iter(pages), [100.0]

    def look():
        page = next(left)
        if isinstance(page, Exception):
            raise page
        return page

    def sleep(seconds):
        now_s[0] += seconds

    return list(watch.samples(look, 2.0, count or len(pages), lambda: now_s[0], sleep))


def page(**figures):
    return ServerMetrics(answered=True, **figures)


def test_rates_and_the_ttft_are_of_the_time_between_two_readings():
    first, second = replayed(
        page(prompt_tokens=1e6, generated_tokens=100.0, first_tokens=10.0, ttft_s=50.0, preemptions=1.0),
        page(
            prompt_tokens=1.2e6, generated_tokens=104.0, first_tokens=12.0, ttft_s=56.0, preemptions=4.0, kv_usage=0.75
        ),
    )
    assert (first.ttft_s, first.first_tokens, first.prompt_tokens_per_s) == (5.0, 10.0, None)
    assert (second.ttft_s, second.first_tokens, second.preemptions) == (3.0, 2.0, 3.0)
    assert (second.prompt_tokens_per_s, second.answer_tokens_per_s) == (100_000.0, 2.0)
    assert second.cells()[1:] == ("75.0%", "", "", "3.00 s", "2", "100,000", "2", "3")


def test_no_first_token_is_no_time():
    _, second = replayed(page(first_tokens=3.0, ttft_s=9.0), page(first_tokens=3.0, ttft_s=9.0))
    assert (second.ttft_s, second.first_tokens) == (None, 0.0)


def test_counters_of_an_engine_that_restarted_are_not_observed():
    _, second = replayed(
        page(prompt_tokens=1e6, first_tokens=5.0, ttft_s=5.0), page(prompt_tokens=7.0, first_tokens=1.0, ttft_s=1.0)
    )
    assert (second.prompt_tokens_per_s, second.ttft_s) == (None, None)


def test_a_server_that_does_not_answer_for_a_while_is_told_and_watched_on():
    first, second, third, fourth = replayed(
        page(prompt_tokens=10.0),
        LaunchError("it does not answer\n  try x"),
        page(prompt_tokens=90.0),
        page(prompt_tokens=98.0),
    )
    assert second.problem == "it does not answer"
    assert list(watch.rows(second, 1)) == [f"{second.at[11:19]}  it does not answer"]
    assert (first.problem, third.problem) == ("", "")
    assert third.prompt_tokens_per_s == 20.0, "since the last reading that was observed, four seconds ago"
    assert fourth.prompt_tokens_per_s == 4.0


def test_the_head_is_repeated():
    lines = [line for number in range(41) for line in watch.rows(watch.Sample(AT), number)]
    assert len(lines) == 41 + 3


class Other(Honest):
    """A server with another page in place of its metrics."""

    page = Instead(200, b"")

    def instead(self, method, path):
        return self.page if path == "/metrics" else None


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"{}", "answers HTTP 404"),
        (401, b"{}", "answers HTTP 401"),
        (200, b"<html>welcome</html>", "has no metric of vLLM or SGLang"),
        (200, b"", "has no metric of vLLM or SGLang"),
        (200, b"\xff\xfe\x00", "has no metric of vLLM or SGLang"),
        (200, b'vllm:num_requests_running{engine="0" nonsense', "has no metric of vLLM or SGLang"),
    ],
)
def test_a_page_without_metrics_is_one_message(capsys, status, body, message):
    mind = Other()
    mind.page = Instead(status, body)
    with serving(mind) as server:
        assert cli.main(["watch", server.url, "--once"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["http://127.0.0.1:1"], "does not answer"),
        (["127.0.0.1:8000"], "write http://HOST:PORT"),
        (["http://host:port"], "write http://HOST:PORT"),
        (["http://127.0.0.1:1", "--every=0"], "--every"),
        (["http://127.0.0.1:1", "--count=0"], "--count"),
        (["http://127.0.0.1:1", "--backend=vlm"], "did you mean 'vllm'?"),
    ],
)
def test_a_wrong_address_or_option_is_one_message(capsys, words, message):
    assert cli.main(["watch", *words, "--once"] if len(words) == 1 else ["watch", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "longctx-launcher" not in err


def test_a_login_in_the_address_is_not_shown(capsys):
    assert cli.main(["watch", "http://me:very-secret-word@127.0.0.1:1", "--once"]) == 2
    assert "very-secret-word" not in capsys.readouterr().err


def test_ctrl_c_ends_a_watch_without_an_error(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.samples, "__defaults__", (time.monotonic, interrupted))
    with serving(Honest()) as server:
        assert cli.main(["watch", server.url]) == 0
    assert capsys.readouterr().out.count("\n") == 2
