"""Correct hosted APIs of many kinds break no check, and no server receives more than the budget."""

import json
import random
from contextlib import ExitStack

import pytest

from pytest_longctx.certificate import run
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.errors import LongctxError
from pytest_longctx.miniatures.hosted import wire
from pytest_longctx.miniatures.hosted.api import DIALECT_NAMES
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.miniatures.hosted.prefix_cache import PrefixCache
from pytest_longctx.miniatures.hosted.rate_limit import RateLimit
from pytest_longctx.miniatures.hosted.refusals import REFUSALS
from tests.unit.miniatures.hosted import caller

LIMIT = 8192


def certified(name, seed=1, claim=None, **options):
    """Certify the miniature *name*; returns the certificate and the miniature."""
    with ExitStack() as stack:
        asked = caller.start(stack, name, **{"limit": LIMIT, **options})
        budget = Budget(1_000_000)
        wanted = run.Wanted(asked.url, "miniature", claim=claim, budget=budget, seed=seed, deadline_s=5.0)
        return run.certify(wanted, wanted.wire()), asked


def broken(certificate):
    return {each.check: each.seen for each in certificate.results if each.word == "broken"}


@pytest.fixture(autouse=True)
def right_key(monkeypatch):
    monkeypatch.setenv("LONGCTX_API_KEY", "right")


def variation(seed):
    """Draw a correct API: dialects, limit, wording, counts, cache, delays."""
    rng = random.Random(seed)
    dialects = rng.sample(DIALECT_NAMES, rng.randint(1, len(DIALECT_NAMES)))
    if dialects == ["ids"]:
        dialects += ["text"]  # a server that takes nothing but ids cannot be asked without its tokenizer
    limit = rng.choice([4096, 5000, 6144, 8192, 10_000])
    return {
        "dialects": tuple(dialects),
        "limit": limit,
        "refusal": rng.choice(list(REFUSALS)),
        "counts_answer": rng.random() < 0.7,
        "listed": rng.choice([None, limit]),
        "listing_field": rng.choice(["context_length", "max_model_len", "context_window", "n_ctx"]),
        "reports_cached": rng.random() < 0.7,
        "tokens_per_event": rng.choice([1, 1, 3, 8]),
        "comments": rng.random() < 0.3,
        "pages": rng.random() < 0.3,
        "cache": PrefixCache(rng.choice([1, 16, 64, 128]), rng.choice([0, 0, 1024])),
        "latency": Latency(rng.choice(["none", "uniform:0,0.01", "lognormal:0.002,1"]), seed=seed),
        "rate_limit": RateLimit(60, per_s=rng.choice([2, 4])) if rng.random() < 0.2 else None,
        "shortens": rng.random() < 0.3,
        "answer_limit": rng.choice([4096, 1 << 17]),
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_correct_api_breaks_nothing(seed):
    options = variation(seed)
    certificate, _ = certified("honest", seed, claim=options["limit"] if seed % 2 else None, **options)
    assert broken(certificate) == {}, options
    assert certificate.exit_status == 0


def test_a_context_whose_last_answers_are_shortened_is_served_as_claimed():
    """Chat completions of vLLM 0.32 answer a prompt of all but one token, with one token, whatever max_tokens says."""
    certificate, _ = certified("honest", claim=LIMIT, shortens=True, listed=LIMIT)
    words = {each.check: each for each in certificate.results}
    assert words["length-claim"].word == words["length-listed"].word == "holds"
    assert words["length-claim"].figures["context_tokens"] == LIMIT
    assert words["length-counted"].figures["rule"] == "prompt and answer"
    assert broken(certificate) == {}


def test_a_shortened_answer_of_a_dialect_with_a_least_one_is_counted_as_it_is():
    """Responses asks for 16 tokens at least; at the limit one is answered, and the context ends with it."""
    options = {"dialects": ("responses",), "shortens": True, "refusal": "moonshot"}
    certificate, _ = certified("honest", claim=LIMIT, **options)
    assert (certificate.longest, certificate.context) == (LIMIT - 1, LIMIT)
    assert broken(certificate) == {}


def test_the_first_token_is_timed_where_it_has_no_text():
    """SmolLM2-135M-Instruct ends its answer to filler at once: vLLM streams a finish reason and no text."""
    certificate, _ = certified("honest", claim=LIMIT, wordless=True)
    words = {each.check: each for each in certificate.results}
    lengths = [row["tokens"] for row in words["time-first-token"].figures["lengths"]]
    assert {LIMIT - 1} < set(lengths)
    assert broken(certificate) == {}


def test_a_counter_that_leaves_reused_tokens_out_counts_each_prompt_once():
    options = {"pages": True, "counts_reused": False, "cache": PrefixCache(1, 0)}
    certificate, _ = certified("honest", claim=LIMIT, **options)
    read = next(each for each in certificate.results if each.check == "time-read-once")
    assert read.word == "holds", read
    assert "from the cache" in read.seen


def test_a_server_may_close_a_connection_that_is_used_again(monkeypatch):
    """`transformers serve` closes it after an error, so the next request on it, the first chat, got no answer."""

    def one_request(self):
        self.handle_one_request()
        self.connection.recv(1)  # the next request, or the end

    monkeypatch.setattr(wire.Connection, "handle", one_request)
    certificate, _ = certified("honest", claim=LIMIT, pages=True)
    assert certificate.as_json()["fields"]["dialect"] == "chat"
    assert broken(certificate) == {}


@pytest.mark.parametrize(
    ("options", "because"),
    [
        ({"refusal": "openai-without-numbers"}, "no refusal names a context limit"),
        ({"refusal": "openai"}, ""),
    ],
)
def test_a_told_limit_is_unmeasured_only_where_none_is_told(options, because):
    certificate, _ = certified("honest", claim=LIMIT, **options)
    told = next(each for each in certificate.results if each.check == "length-told")
    assert (told.word, told.because) == ("unmeasured" if because else "holds", because)


def test_the_listed_context_of_llama_cpp_is_the_served_one_and_not_that_of_the_training():
    certificate, _ = certified("honest", listed=LIMIT, listing_field="n_ctx")
    assert certificate.as_json()["listed"] == LIMIT
    assert broken(certificate) == {}


def test_every_request_is_counted():
    certificate, asked = certified("honest", claim=LIMIT)
    assert certificate.budget["requests"] == len(asked.api.received)


def received_tokens(asked):
    """Return what the server received: tokens of prompts, and of the answers that were asked for."""
    return sum((row.prompt_tokens or 0) + min(row.max_tokens or 0, 1 << 20) for row in asked.api.received)


@pytest.mark.parametrize(
    "name", ["honest", "counts-characters", "makes-up-cached-tokens", "counts-no-further", "unequal-replicas"]
)
@pytest.mark.parametrize("tokens", [3_000, 21_000, 77_000])
def test_no_more_than_the_budget_is_received(name, tokens):
    with ExitStack() as stack:
        asked = caller.start(stack, name, limit=LIMIT)
        wanted = run.Wanted(asked.url, "miniature", claim=None, budget=Budget(tokens), seed=tokens, deadline_s=5.0)
        try:
            run.certify(wanted, wanted.wire())
        except LongctxError:
            pass  # too little to begin
        assert received_tokens(asked) <= tokens


def test_a_repeated_key_is_in_no_output(monkeypatch):
    monkeypatch.setenv("LONGCTX_API_KEY", "sk-very-secret-4711")
    certificate, _ = certified("repeats-the-key", key="sk-very-secret-4711")
    assert "sk-very-secret" not in json.dumps(certificate.as_json())
