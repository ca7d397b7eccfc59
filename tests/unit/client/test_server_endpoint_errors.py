"""Responses that show that a request cannot be served at all, and the time until such a server is abandoned."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.client import request
from pytest_longctx.client.server import KEY_VARIABLE, Answer, unaskable
from pytest_longctx.errors import BootError, LaunchError
from pytest_longctx.launchers import Launch, readiness_probe
from pytest_longctx.launchers.url import UrlLauncher
from pytest_longctx.miniatures import request_faults
from pytest_longctx.miniatures.server import Honest, Instead
from tests.unit import factories
from tests.unit.fake_engine import prompts, serving

PAGE = "<!doctype html><title>Sign in</title>"
NO: dict[str, tuple[int, str, dict[str, Any], str]] = {
    "no key": (401, "", {}, KEY_VARIABLE),
    "another key": (401, "", {"keyed": True}, f"the right key in {KEY_VARIABLE}"),
    "forbidden": (403, "", {}, KEY_VARIABLE),
    "a key of its own": (401, "", {"attached": False}, "this run did not set"),
    "no endpoint": (404, '{"detail": "Not Found"}', {}, "it has no /v1/completions"),
    "an API of chat alone": (404, "", {}, "longctx certify URL"),
    "no such method": (405, "", {}, "it has no /v1/completions"),
    "not implemented": (501, "", {}, "it has no /v1/completions"),
    "elsewhere": (307, "", {"location": "https://there/"}, "it redirects to https://there/"),
    "a page": (200, PAGE, {}, "it returned a web page"),
    "a page of an error": (500, f"\n {PAGE.upper()}", {}, "it returned a web page"),
    "a page by its type": (503, "sorry", {"kind": "text/html; charset=utf-8"}, "it returned a web page"),
    "a quota": (429, "slow down", {}, "larger quota"),
    "a proxy's body limit": (413, "", {"local": False}, "client_max_body_size"),
    "a proxy's time limit": (504, "", {"local": False}, "proxy_read_timeout"),
    "a gateway without a server": (502, "", {"local": False}, "cannot reach the server behind it"),
    "no stream": (
        200,
        "{}",
        {"streamed": True, "kind": "application/json"},
        "it returned application/json instead of an event stream",
    ),
}
MAY_BE: dict[str, tuple[int, str, dict[str, Any]]] = {
    "a refusal": (400, '{"message": "too long"}', {}),
    "a refusal of another dialect": (422, "too long", {}),
    "an answer": (200, "{}", {}),
    "an engine's own error": (500, "boom", {}),
    "a busy engine": (503, "", {}),
    "an engine's own 504, with nothing between": (504, "", {"local": True}),
    "an engine's own 413, with nothing between": (413, "", {"local": True}),
}


def judged(status: int, text: str, how: dict[str, Any]) -> Any:
    about = {name: how[name] for name in ("kind", "location", "streamed") if name in how}
    answer = Answer("POST /v1/completions", status, text, **about)
    where = {"local": True, "attached": True, "keyed": False, **{k: v for k, v in how.items() if k not in about}}
    return unaskable(answer, **where)


@pytest.mark.parametrize("name", NO)
def test_an_answer_that_is_none_says_what_was_asked_and_answered_and_what_to_do(name):
    status, text, how, words = NO[name]
    said = str(judged(status, text, how))
    assert said.startswith("the request did not reach an engine: ")
    assert words in said
    assert "\n  asked    POST /v1/completions\n" in said
    assert f"\n  answered HTTP {status}" in said
    assert "\n  try      " in said


@pytest.mark.parametrize("name", MAY_BE)
def test_an_answer_that_may_be_one_is_left_to_the_verdict(name):
    assert judged(*MAY_BE[name]) is None


def test_what_is_secret_is_not_shown():
    answer = Answer("POST /v1/completions", 401, "your key hunter2 is wrong")
    assert "hunter2" not in str(unaskable(answer, local=True, attached=True, keyed=True, secrets=("hunter2",)))


class Mind(Honest):
    """Answers as configured, and counts the completion requests."""

    answer: Callable[[int], Instead | None] = staticmethod(lambda _: None)
    asked = 0

    def instead(self, method: str, path: str) -> Instead | None:
        if path != "/v1/completions":
            return None
        self.asked += 1
        return type(self).answer(self.asked)


def attached(mind: Honest, tmp_path: Any, backend: Any = None) -> tuple[Any, float]:
    """Return the result of attaching to *mind*, and its duration."""
    with serving(mind, backend) as server:
        launch = Launch(
            backend or Miniature(), factories.deployment(backend="miniature", model={"name": "unknown"}), None, tmp_path
        )
        began_s = time.monotonic()
        try:
            with UrlLauncher(server.url).up(launch) as up:
                return up, time.monotonic() - began_s
        except (LaunchError, BootError) as problem:
            return problem, time.monotonic() - began_s


@pytest.mark.parametrize(
    ("mind", "words"),
    [
        (request_faults.WantsKey, KEY_VARIABLE),
        (request_faults.Forbids, KEY_VARIABLE),
        (request_faults.HasNoCompletions, "asked    POST /v1/completions\n  answered HTTP 404"),
        (request_faults.IsAWebPage, "it returned a web page"),
    ],
)
@pytest.mark.parametrize("backend", [Miniature(), OpenAI()], ids=lambda each: each.name)
def test_a_server_that_cannot_be_asked_is_left_at_once(mind, words, backend, tmp_path):
    problem, took_s = attached(mind(), tmp_path, backend)
    assert isinstance(problem, LaunchError)
    assert words in str(problem)
    assert took_s < 2


@pytest.mark.parametrize(
    "answer", [Instead(200, b"{}"), Instead(200, b"[1]"), Instead(400, b"no"), Instead(422, b"{}")]
)
def test_so_is_one_that_does_not_take_the_plainest_request(answer, tmp_path):
    mind = type("Odd", (Mind,), {"answer": staticmethod(lambda _: answer)})()
    problem, took_s = attached(mind, tmp_path)
    assert isinstance(problem, LaunchError)
    assert f"answered HTTP {answer.status}" in str(problem)
    assert took_s < 2


def test_nobody_at_the_address_is_said_at_once(tmp_path):
    launch = Launch(Miniature(), factories.deployment(backend="miniature"), None, tmp_path)
    began_s = time.monotonic()
    with pytest.raises(LaunchError, match="Connection refused"), UrlLauncher("http://127.0.0.1:9").up(launch):
        pass
    assert time.monotonic() - began_s < 10, "the deadline of a boot is minutes"


def test_one_error_for_every_request_is_a_verdict_within_twenty_seconds(tmp_path):
    problem, took_s = attached(request_faults.Answers500(), tmp_path)
    assert isinstance(problem, BootError)
    seen = problem.observation
    assert (seen.outcome, seen.kind, seen.phase) == ("fails", "server-error", "request")
    assert seen.said == "it came up, and answers every request with HTTP 500: 'text'"
    assert readiness_probe.PERSISTS_S <= took_s < 20


@pytest.mark.parametrize("status", [413, 502, 504])
def test_what_only_proxies_answer_is_an_error_of_the_set_up_on_loopback_too(status, tmp_path):
    mind = type("Tunnel", (Mind,), {"answer": staticmethod(lambda _: Instead(status, b""))})()
    problem, took_s = attached(mind, tmp_path)
    assert isinstance(problem, LaunchError)
    assert "something between client and server" in str(problem)
    assert took_s < 2


def test_503_is_not_now_and_never_an_error_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(readiness_probe, "PERSISTS_S", 0.5)
    loading = lambda n: Instead(503, b"the model is loading") if n < 10 else None  # noqa: E731
    server, took_s = attached(type("Loading", (Mind,), {"answer": staticmethod(loading)})(), tmp_path)
    assert server.model == "miniature"
    assert took_s > 1.5


def test_an_engine_that_warms_up_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(readiness_probe, "PERSISTS_S", 1.0)
    warming = lambda n: Instead(500 if n % 3 else 503, f"warming up, {n} of 12".encode()) if n < 12 else None  # noqa: E731
    server, _ = attached(type("Warming", (Mind,), {"answer": staticmethod(warming)})(), tmp_path)
    assert server.model == "miniature"


def test_ids_and_times_in_its_text_do_not_make_it_another_error(tmp_path, monkeypatch):
    monkeypatch.setattr(readiness_probe, "PERSISTS_S", 1.0)
    failing = lambda n: Instead(500, f"request 8f3b-{n:012x} failed at {n}".encode())  # noqa: E731
    problem, took_s = attached(type("Failing", (Mind,), {"answer": staticmethod(failing)})(), tmp_path)
    assert isinstance(problem, BootError)
    assert took_s < 3


def test_an_endpoint_that_is_gone_when_a_long_prompt_comes_is_no_refusal():
    with serving(request_faults.LosesItsRoute()) as server:
        exchange = request.ask(server, prompts()(1000), 4)
    seen = exchange.observe()
    assert (exchange.ending, seen.outcome, seen.kind) == ("not asked", None, "not-asked")
    assert "asked    POST /v1/completions\n  answered HTTP 404" in seen.said


def test_a_page_with_status_200_is_no_answer_of_an_engine():
    with serving(request_faults.IsAWebPage()) as server:
        exchange = request.ask(replace(server, backend=OpenAI()), prompts()(1000), 4)
    assert exchange.ending == "not asked"


@pytest.mark.parametrize(("health", "outcome"), [(200, "fails"), (503, "dies"), (None, "dies")])
def test_an_error_of_a_server_that_lives_on_is_not_its_death(health, outcome):
    seen = factories.exchange(ending="server error", health=health, detail="no more").observe()
    assert seen.outcome == outcome
