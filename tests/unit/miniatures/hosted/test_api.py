"""The honest API: its dialects, counts, limits, and answers."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.miniatures.hosted.api import DIALECT_NAMES
from pytest_longctx.miniatures.hosted.prefix_cache import PrefixCache
from pytest_longctx.miniatures.hosted.rate_limit import RateLimit
from pytest_longctx.miniatures.hosted.refusals import REFUSALS
from pytest_longctx.miniatures.hosted.tokens import Ids, decode, deltas, encode, vocabulary
from tests.unit.miniatures.hosted.caller import LIMIT, UNIT, events, found, haystack, said, streamed

COUNT = "Count from 1 to 900."


@given(st.text())
def test_text_survives_its_tokens(text):
    assert decode(encode(text)) == text
    assert "".join(deltas(encode(text))) == text


@given(st.lists(st.integers(0, len(vocabulary().pieces) - 1)))
def test_ids_have_a_text(ids):
    assert isinstance(decode(ids), str)


def test_tokens_are_neither_words_nor_characters():
    text = "The harbour keeps 4821937 lanterns, and the valley none. " * 50
    assert len(text.split()) * 1.3 < len(encode(text)) < len(text) / 2
    units = {unit: len(encode(unit * 64)) / 64 for unit in (" the", " a", " x", ".", " with", "a", " remember")}
    assert units == {" the": 1, " a": 1, " x": 1, ".": 1, " with": 1, "a": 22 / 64, " remember": 3}


@given(st.lists(st.lists(st.integers(0, 3), max_size=60), min_size=1, max_size=6), st.integers(1, 8))
def test_cached_tokens_never_exceed_the_common_prefix(prompts, block_tokens):
    cache = PrefixCache(block_tokens)
    before: list[Ids] = []
    for prompt in prompts:
        ids = encode("")
        ids.extend(prompt)
        cached = cache.read(ids)
        common = max(
            (
                next(
                    (i for i, pair in enumerate(zip(ids, old, strict=False)) if pair[0] != pair[1]),
                    min(len(ids), len(old)),
                )
                for old in before
            ),
            default=0,
        )
        assert cached == min(common // block_tokens, max(0, len(ids) - 1) // block_tokens) * block_tokens
        before.append(ids)


def test_two_salts_share_no_cache():
    cache, ids = PrefixCache(), encode(UNIT * 100)
    assert [cache.read(ids, "a"), cache.read(ids, "b"), cache.read(ids, "a")] == [0, 0, 96]


def test_a_small_cache_forgets():
    cache = PrefixCache(block_tokens=16, capacity_blocks=8)
    cache.read(encode(" a" * 128))
    cache.read(encode(" of" * 128))
    assert cache.read(encode(" a" * 128)) == 0


def test_a_rate_limit_tells_when_to_come_back(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    limit = RateLimit(2, per_s=10)
    assert [limit.take() for _ in range(3)] == [None, None, 5.0]
    now[0] += 5
    assert limit.take() is None


def test_a_429_names_its_wait(serve):
    caller = serve(rate_limit=RateLimit(2))
    replies = [caller.chat("Hi") for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert 25 <= int(replies[-1].headers["retry-after"]) <= 30


@pytest.fixture
def every(serve):
    return serve(dialects=DIALECT_NAMES)


ASKED = {
    "chat": lambda text: ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}, "max_tokens"),
    "text": lambda text: ("/v1/completions", {"prompt": text}, "max_tokens"),
    "ids": lambda text: ("/v1/completions", {"prompt": list(encode(text))}, "max_tokens"),
    "responses": lambda text: ("/v1/responses", {"input": text}, "max_output_tokens"),
}


def whole(dialect, body):
    """Text, finish and counts (prompt, completion, cached) of a whole answer."""
    if dialect == "responses":
        counts = body["usage"]
        numbers = counts["input_tokens"], counts["output_tokens"], counts["input_tokens_details"]["cached_tokens"]
        finish = "length" if body["incomplete_details"] == {"reason": "max_output_tokens"} else "stop"
        return body["output"][0]["content"][0]["text"], finish, numbers
    choice, counts = body["choices"][0], body["usage"]
    text = choice["message"]["content"] if dialect == "chat" else choice["text"]
    numbers = counts["prompt_tokens"], counts["completion_tokens"], counts["prompt_tokens_details"]["cached_tokens"]
    return text, choice["finish_reason"], numbers


@pytest.mark.parametrize("dialect", ASKED)
def test_a_dialect_answers_and_counts(every, dialect):
    path, body, limit = ASKED[dialect](COUNT)
    template = 0 if dialect in {"text", "ids"} else 7
    prompt = len(encode(COUNT)) + template
    answer = every.post(path, {"model": "miniature", "temperature": 0, limit: 7} | body).json()
    assert whole(dialect, answer) == ("1, 2, 3", "length", (prompt, 7, 0))
    path, body, limit = ASKED[dialect]("Count from 1 to 3.")
    answer = every.post(path, {"model": "miniature", "temperature": 0, limit: 40} | body).json()
    assert whole(dialect, answer)[:2] == ("1, 2, 3", "stop")


def test_generate_answers_and_counts(every):
    body = {"text": COUNT, "sampling_params": {"temperature": 0, "max_new_tokens": 7}}
    answer = every.post("/generate", body).json()
    assert (answer["text"], answer["meta_info"]["finish_reason"]) == ("1, 2, 3", {"type": "length", "length": 7})
    assert answer["meta_info"]["completion_tokens"] == 7
    rows = events(every.post("/generate", body | {"stream": True}).text)
    assert [row["text"] for row in rows[:-1]][-1] == "1, 2, 3"
    assert [row["meta_info"]["completion_tokens"] for row in rows[:-1]] == list(range(1, 8))


def test_a_stream_of_responses_ends_with_its_whole(every):
    body = {"model": "miniature", "input": COUNT, "temperature": 0, "max_output_tokens": 7, "stream": True}
    rows = events(every.post("/v1/responses", body).text)
    assert "".join(row["delta"] for row in rows if row["type"] == "response.output_text.delta") == "1, 2, 3"
    assert rows[-1]["type"] == "response.incomplete"
    assert whole("responses", rows[-1]["response"])[:2] == ("1, 2, 3", "length")


def test_usage_in_a_stream_comes_where_it_is_asked_for(serve):
    caller = serve()
    rows = caller.stream(COUNT, max_tokens=7)
    assert rows[-1] == "[DONE]"
    assert rows[-2]["choices"] == []
    assert {**rows[-2]["usage"], "prompt_tokens_details": None} == {
        **caller.usage(COUNT, max_tokens=7),
        "prompt_tokens_details": None,
    }
    without = events(caller.chat(COUNT, max_tokens=7, stream=True).text)
    assert streamed(without) == "1, 2, 3"
    assert not any("usage" in row for row in without[:-1])


@pytest.mark.parametrize("counts_answer", [True, False])
def test_the_limit_is_exact(serve, counts_answer):
    caller = serve(counts_answer=counts_answer)
    template = caller.tokens(UNIT) - 1
    room = LIMIT - template - (10 if counts_answer else 0)
    assert caller.tokens(UNIT * room, max_tokens=10) == room + template
    assert caller.chat(UNIT * (room + 1), max_tokens=10).status_code == 400


def test_without_a_maximum_one_token_must_be_left(serve):
    caller = serve()
    template = caller.tokens(UNIT) - 1
    answer = caller.usage(UNIT * (LIMIT - template - 1), max_tokens=None)
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (LIMIT - 1, 1)
    assert caller.chat(UNIT * (LIMIT - template), max_tokens=None).status_code == 400


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("units", [LIMIT, LIMIT - 20])
def test_a_refusal_is_worded_as_the_provider_does(serve, name, units):
    reply = serve(refusal=name).chat(UNIT * units)
    assert reply.status_code in {400, 413, 422}
    if name not in {"openai-without-numbers", "gateway"}:
        assert str(LIMIT) in reply.text
        assert any(str(units + extra) in reply.text for extra in (7, 39))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"temperature": "hot"}, 400),
        ({"temperature": 3}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": 1.5}, 400),
        ({"max_tokens": 1 << 30}, 400),
        ({"stop": ""}, 400),
        ({"stop": [1]}, 400),
        ({"stream_options": {"include_usage": True}}, 400),
        ({"messages": []}, 400),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, 400),
        ({"messages": [{"role": "user"}]}, 400),
        ({"model": "another"}, 404),
        ({"model": None}, 404),
    ],
)
def test_bad_requests_are_refused(serve, fields, status):
    reply = serve().chat("Hi", **fields)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_what_is_not_served_is_not_found(serve):
    caller = serve()
    for path in ("/v1/completions", "/v1/responses", "/generate", "/v2/chat/completions"):
        assert caller.post(path, {"model": "miniature", "prompt": "Hi"}).status_code == 404
    for path in ("/health", "/metrics", "/tokenize"):
        assert httpx.get(caller.url + path, headers={"Authorization": "Bearer right"}).status_code == 404


def test_ids_are_refused_where_only_text_is_served(serve):
    caller = serve(dialects=("text",))
    assert caller.post("/v1/completions", {"model": "miniature", "prompt": [1, 2, 3]}).status_code == 400
    assert caller.post("/v1/completions", {"model": "miniature", "prompt": "Hi"}).status_code == 200
    too_high = serve(dialects=("ids",)).post("/v1/completions", {"model": "miniature", "prompt": [1 << 20]})
    assert too_high.json()["error"]["message"].startswith("Token id 1048576 is out of vocabulary")


def test_broken_json_is_refused(serve):
    caller = serve()
    for body in (b"{", b"[]", b"\xff"):
        headers = {"Authorization": "Bearer right"}
        assert httpx.post(f"{caller.url}/v1/chat/completions", content=body, headers=headers).status_code == 400


def test_sampled_answers_differ_and_a_seed_repeats_them(serve):
    caller = serve()
    sampled = {caller.text("Tell me something.", temperature=1) for _ in range(3)}
    seeded = {caller.text("Tell me something.", temperature=1, seed=7) for _ in range(3)}
    greedy = {caller.text("Tell me something.") for _ in range(3)}
    assert (len(sampled), len(seeded), len(greedy)) == (3, 1, 1)


def test_a_prompt_that_differs_in_one_token_has_another_answer(serve):
    caller = serve()
    assert caller.text("A" + UNIT * 500) != caller.text("A" + UNIT * 250 + " of" + UNIT * 249)


def test_codes_are_answered_from_the_text(serve):
    caller = serve()
    prompt, codes = haystack(12, 200)
    assert caller.text(prompt, max_tokens=100) == ", ".join(codes)
    assert caller.text(prompt.replace("is 4821940", "was lost"), max_tokens=100) == ", ".join(
        code if code != "4821940" else "unknown" for code in codes
    )
    assert all(found(streamed(caller.stream(prompt, max_tokens=100)), codes))


def test_a_conversation_is_read_with_its_roles(serve):
    caller = serve()
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "The code of the amber falcon is 4821937."},
        {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is the code of the amber falcon?"},
    ]
    reply = caller.chat(turns).json()
    assert said(reply) == "4821937"
    assert reply["usage"]["prompt_tokens"] == 2 + sum(
        5 + len(encode(turn["content"] if isinstance(turn["content"], str) else "Hello.")) for turn in turns
    )


def test_logprobs_come_where_they_are_asked_for(every):
    rows = every.chat(COUNT, logprobs=True, top_logprobs=1, max_tokens=3).json()["choices"][0]["logprobs"]["content"]
    assert [row["token"] for row in rows] == ["1", ",", " "]
    assert all(row["logprob"] < 0 and len(row["top_logprobs"]) == 1 for row in rows)
    body = {"model": "miniature", "prompt": COUNT, "logprobs": 1, "max_tokens": 3, "temperature": 0}
    assert len(every.post("/v1/completions", body).json()["choices"][0]["logprobs"]["token_logprobs"]) == 3


def test_events_may_hold_several_tokens_and_begin_with_a_comment(serve):
    caller = serve(tokens_per_event=8, comments=True)
    reply = caller.chat(COUNT, max_tokens=32, stream=True)
    assert reply.text.startswith(": PROCESSING\n\n")
    parts = [row for row in events(reply.text)[:-1] if row["choices"] and row["choices"][0]["delta"].get("content")]
    assert len(parts) == 4
    assert json.dumps(streamed(parts)) == json.dumps(caller.text(COUNT))


def test_counters_grow_by_what_was_read(serve):
    caller = serve(pages=True)
    usage = caller.usage(COUNT)
    page = httpx.get(f"{caller.url}/metrics").text
    rows = {line.split("{")[0]: float(line.split()[-1]) for line in page.splitlines()}
    assert rows["vllm:prompt_tokens_total"] == usage["prompt_tokens"]
    assert rows["vllm:generation_tokens_total"] == usage["completion_tokens"]
