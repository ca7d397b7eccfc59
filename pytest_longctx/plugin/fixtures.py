"""
The fixtures, each of which is short and calls modules that mostly do not import pytest.

Heavy imports wait until a fixture runs, because every pytest run of an environment loads this module.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

if TYPE_CHECKING:
    from pytest_longctx.certificate.run import Certificate
    from pytest_longctx.client.exchange import Exchange
    from pytest_longctx.client.load import Load as Carried
    from pytest_longctx.client.server import Server
    from pytest_longctx.deployments.deployment import Deployment
    from pytest_longctx.findings.ask import Arrivals
    from pytest_longctx.findings.ask import Ask as Asked
    from pytest_longctx.findings.finding import Finding
    from pytest_longctx.findings.scope import Mismatch
    from pytest_longctx.launchers.boot import Boot
    from pytest_longctx.observation import Observation
    from pytest_longctx.plugin.session import Judge, Session
    from pytest_longctx.prompts import PromptFactory, Sendable
    from pytest_longctx.prompts.corpus import Source


class Ask(Protocol):
    """Send one prompt; see `pytest_longctx.client.request.ask`."""

    def __call__(
        self,
        prompt: "Sendable",
        output_tokens: int = 32,
        *,
        deadline_s: float | None = None,
        unserved: Literal["raise", "return"] | None = None,
        traced: bool = False,
        salt: str = "",
        stops: bool = False,
    ) -> "Exchange":
        """
        Send one prompt, and return the request with its answer. *traced* adds the log-probability of each token, if the
        server returns it.

        *salt*: the prefix cache matches only requests with the same salt, if the backend supports it (``salted``).

        *stops*: the model ends the answer, as in an evaluation. If false, the answer has *output_tokens*.

        *unserved* decides on a refusal, a hang or any other incomplete answer: *raise* an `UnservedError`, or *return*
        it. By default a test that judges a finding gets it as evidence, and any other test gets the error.
        """


class Load(Protocol):
    """Send many prompts; see `pytest_longctx.client.load.run`."""

    def __call__(
        self,
        prompt_tokens: int,
        output_tokens: int,
        *,
        requests: int,
        concurrency: int | None = None,
        rate_per_s: float | None = None,
        arrivals: "Arrivals" = "poisson",
    ) -> "Carried":
        """
        Send a load, and return every exchange with the figures of the whole load. Set either *concurrency* or
        *rate_per_s*.
        """


class Accuracy(Protocol):
    """Ask questions with known answers; see `pytest_longctx.client.adapters.runner.score`."""

    def __call__(self, asked: "Asked") -> "Observation":
        """Ask the questions of a task, and return the share of right answers with its standard error."""


@pytest.fixture(scope="session")
def longctx_session(pytestconfig: pytest.Config) -> "Session":
    """Fixture: the `Session` of the whole run, with its options, data and machine."""
    from pytest_longctx.plugin.session import session_of

    return session_of(pytestconfig)


@pytest.fixture(scope="session")
def longctx_seed(longctx_session: "Session") -> int:
    """Fixture: the seed of every prompt. Override it to pin a project's prompts."""
    return longctx_session.seed


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest) -> "Deployment":
    """Fixture: the deployment under test, parametrized by the finding. Override it to test one made in code."""
    if not hasattr(request, "param"):
        pytest.fail("this test needs a deployment, but none is selected: set --backend", pytrace=False)
    chosen: Deployment = request.param
    return chosen


@pytest.fixture(scope="session")
def boot(longctx_session: "Session", deployment: "Deployment") -> Iterator["Boot"]:
    """Fixture: the boot of the deployment, which may have failed, for tests that expect a failure."""
    yield from longctx_session.boot(deployment)


@pytest.fixture(scope="session")
def server(boot: "Boot") -> "Server":
    """Fixture: the deployment's ready server. It boots once and stops before the next deployment boots."""
    if boot.server is None:
        raise pytest.fail.Exception(str(boot.failure), pytrace=False) from boot.failure
    return boot.server


@pytest.fixture(scope="session")
def longctx_corpus() -> "Source":
    """Fixture: the text of prompts in natural language. Override it with ``TextFile(path)`` to read your own text."""
    from pytest_longctx.prompts.corpus import Sentences

    return Sentences()


@pytest.fixture
def prompt(
    request: pytest.FixtureRequest, deployment: "Deployment", longctx_seed: int, longctx_corpus: "Source"
) -> "PromptFactory":
    """
    ``prompt(10_000)`` or ``prompt("2Mi")``: a new prompt of exactly that many tokens. The same seed gives the same
    prompt.

    `PromptFactory` has the other kinds: ``prompt.natural``, ``needle``, ``ruler``, ``text``, ``chat``, ``turns``,
    ``users``.
    """
    from pytest_longctx.deployments import models
    from pytest_longctx.prompts import PromptFactory, tokenizer
    from pytest_longctx.prompts.corpus import Sentences, Words
    from pytest_longctx.prompts.factory import Reader

    def reader() -> Reader:
        where, source = models.locate(deployment.model), longctx_corpus
        generated = deployment.model.make is not None and deployment.model.weights != "real"
        if generated and source == Sentences():  # a generated tokenizer has no English words
            source = Words.of(tokenizer.load(where), *deployment.model.ordinary_ids)
        return Reader(where, source, deployment.max_model_len)

    params = getattr(request.node, "callspec", None)
    finding = params.params.get("finding") if params else None
    # The key is the question, not the server: every backend gets the same prompt.
    name = getattr(request.node, "originalname", request.node.name)
    return PromptFactory(longctx_seed, f"{name}/{finding.id if finding else ''}", deployment.model.ordinary_ids, reader)


@pytest.fixture
def ask(request: pytest.FixtureRequest, longctx_session: "Session", server: "Server") -> Ask:
    """
    ``ask(prompt(10_000), 32)``: send a prompt, stream the answer, return the `Exchange`. Without an answer:
    `UnservedError`.
    """
    from dataclasses import replace

    from pytest_longctx.client import request as client_request
    from pytest_longctx.client.exchange import require_asked
    from pytest_longctx.plugin import failures
    from pytest_longctx.plugin.selection import pair_of
    from pytest_longctx.plugin.session import failing_plainly

    usual: Literal["raise", "return"] = "raise" if pair_of(request.node)[0] is None else "return"

    def send(
        prompt: "Sendable",
        output_tokens: int = 32,
        *,
        deadline_s: float | None = None,
        unserved: Literal["raise", "return"] | None = None,
        traced: bool = False,
        salt: str = "",
        stops: bool = False,
    ) -> "Exchange":
        with longctx_session.measuring(server, len(prompt)) as row:
            watch = longctx_session.watch_request(server, len(prompt))
            asked = replace(server, salt=server.salt + salt) if salt and server.backend.salted else server
            asked = replace(asked, stops=True) if stops else asked
            exchange = client_request.ask(
                asked, prompt, output_tokens, deadline_s=deadline_s, watch=watch, traced=traced
            )
            row |= {"ttft_s": exchange.ttft_s, "ending": exchange.ending}
        with failing_plainly():
            require_asked(exchange.observe())
        exchange = replace(exchange, vitals=longctx_session.sampler.meanwhile(exchange.started_s, exchange.ended_s))
        if exchange.ending != "complete":
            if (unserved or usual) == "raise":
                raise failures.unserved_error(longctx_session, request.node, server, exchange)
            failures.keep_unserved(request.node, server, exchange)
        return exchange

    return send


@pytest.fixture
def load(longctx_session: "Session", server: "Server", prompt: "PromptFactory") -> Load:
    """
    ``load(1024, 1024, requests=2560, concurrency=512)``: many new prompts at once; returns a `Load` with every
    `Exchange`.
    """
    import time
    from dataclasses import replace

    from pytest_longctx.client import load as client_load
    from pytest_longctx.findings.ask import Ask as Asked

    def run(prompt_tokens: int, output_tokens: int, **how: Any) -> "Carried":
        asked = Asked(prompt_tokens=prompt_tokens, output_tokens=output_tokens, **how)
        since_s = time.monotonic()
        with longctx_session.measuring(server) as row:
            row["requests"] = asked.requests
            if tool := longctx_session.options.load:
                carried = longctx_session.load_by_tool(tool, server, asked)
            else:
                row["sent_tokens"] = prompt_tokens * (asked.requests or 1)
                carried = client_load.run(
                    server, prompt, asked, longctx_session.seed, longctx_session.progress_line.update
                )
        return replace(carried, vitals=longctx_session.sampler.meanwhile(since_s, time.monotonic()))

    return run


@pytest.fixture
def reset_cache(longctx_session: "Session", server: "Server", prompt: "PromptFactory") -> "Callable[[], None]":
    """``reset_cache()``: empty the server's prefix cache and verify it. The test fails if the cache cannot be emptied."""
    from pytest_longctx.client import prefix_cache
    from pytest_longctx.errors import CacheError

    def empty() -> None:
        try:
            with longctx_session.measuring(server):
                prefix_cache.empty(server, prompt(prefix_cache.WITNESS_TOKENS), longctx_session.progress_line.update)
        except CacheError as problem:
            raise pytest.fail.Exception(str(problem), pytrace=False) from problem

    return empty


@pytest.fixture
def reset(longctx_session: "Session", server: "Server") -> "Callable[[Sendable, int], Observation]":
    """
    ``reset(prompt(8000), 4)``: send one prompt three times and empty the cache before the third; returns an
    `Observation`.
    """
    from pytest_longctx.client import prefix_cache

    return _measured(longctx_session, server, prefix_cache.observe)


@pytest.fixture
def logged_rate(longctx_session: "Session", server: "Server") -> "Callable[[Sendable, int], Observation]":
    """
    ``logged_rate(prompt(30_000), 4)``: compare one request's throughput in the server's log with the client's; an
    `Observation`.
    """
    from pytest_longctx.client import logged_throughput

    return _measured(longctx_session, server, logged_throughput.observe)


def _measured(
    session: "Session", server: "Server", observe: "Callable[..., Observation]"
) -> "Callable[[Sendable, int], Observation]":
    """
    Return a fixture's function: call *observe* with a prompt and a number of output tokens, while no other process
    measures the server.
    """

    def run(prompt: "Sendable", output_tokens: int) -> "Observation":
        with session.measuring(server, len(prompt)):
            return observe(server, prompt, output_tokens, session.progress_line.update)

    return run


@pytest.fixture
def disconnect(longctx_session: "Session", server: "Server", prompt: "PromptFactory") -> "Callable[[int], Observation]":
    """``disconnect(60_000)``: disconnect during the prefill of that many tokens, and observe the server; an `Observation`."""
    from pytest_longctx.client import cancellation

    def leave(tokens: int) -> "Observation":
        with longctx_session.measuring(server, tokens):
            return cancellation.disconnect(server, prompt, tokens, longctx_session.progress_line.update)

    return leave


@pytest.fixture
def state_path(
    longctx_session: "Session", server: "Server", prompt: "PromptFactory"
) -> "Callable[[Asked], Observation]":
    """``state_path(finding.ask)``: read prompts on the path ``ask.path`` and cold, and compare both; an `Observation`."""
    from pytest_longctx.client import state_paths

    def walk(asked: "Asked") -> "Observation":
        with longctx_session.measuring(server, asked.prompt_tokens):
            return state_paths.observe(server, prompt, asked, longctx_session.progress_line.update)

    return walk


@pytest.fixture
def drift(
    longctx_session: "Session", server: "Server", boot: "Boot", prompt: "PromptFactory"
) -> "Callable[[Finding], Observation | Mismatch]":
    """``drift(finding)``: read its texts, and compare with the reading of ``ask.against``: an `Observation`, or why not yet."""
    from pytest_longctx.plugin import drift as plugin_drift
    from pytest_longctx.plugin.session import failing_plainly

    def read(finding: "Finding") -> "Observation | Mismatch":
        with failing_plainly():
            return plugin_drift.compare_texts(longctx_session, server, boot, prompt, finding)

    return read


@pytest.fixture
def repeatable(
    longctx_session: "Session", server: "Server", boot: "Boot", prompt: "PromptFactory"
) -> "Callable[[Finding], Observation | Mismatch]":
    """``repeatable(finding)``: send one prompt alone, in batches and after hits; an `Observation`, or why not yet."""
    from pytest_longctx.plugin import drift as plugin_drift
    from pytest_longctx.plugin.session import failing_plainly

    def repeat(finding: "Finding") -> "Observation | Mismatch":
        with failing_plainly():
            return plugin_drift.repeatable(longctx_session, server, boot, prompt, finding)

    return repeat


@pytest.fixture
def accuracy(longctx_session: "Session", server: "Server") -> Accuracy:
    """``accuracy(finding.ask)``: lm-eval asks and scores the questions of a task; an `Observation`."""

    def run(asked: "Asked") -> "Observation":
        with longctx_session.measuring(server):
            return longctx_session.accuracy_by_tool(server, asked)

    return run


@pytest.fixture
def judge(request: pytest.FixtureRequest, longctx_session: "Session", finding: "Finding") -> "Judge":
    """``judge(exchange)``: the verdict on the test's finding, recorded before the call returns."""
    boot = None if finding.on_paper else request.getfixturevalue("boot")
    return longctx_session.judge_for(request.node, finding, boot)


@pytest.fixture(scope="session")
def certificate(longctx_session: "Session") -> "Certificate":
    """The certificate of the endpoint in ``--longctx-launcher=url:URL``: one run of ``longctx certify``, for all tests."""
    from pytest_longctx.plugin import certificate

    return certificate.certificate(longctx_session)


@pytest.fixture
def finding(deployment: "Deployment") -> "Finding":
    """The finding that this test judges, parametrized by the marker ``finding`` or ``judges``."""
    pytest.fail("this test has no finding; mark it with @pytest.mark.finding('LC-0001')", pytrace=False)
