"""Each fault is seen over HTTP, and the same look at the honest API sees nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pytest_longctx.miniatures.hosted.faults import FAULTS
from tests.unit.miniatures.hosted.caller import LIMIT, TASK, UNIT, Caller, found, haystack, said, streamed

LONG = UNIT * (LIMIT * 3 // 4)
OVER = UNIT * LIMIT
COUNT = "Count from 1 to 900."


def recalled(caller: Caller, each: int = 250) -> list[bool]:
    """Which of twelve codes are found in a text of about 12 x *each* tokens."""
    prompt, codes = haystack(12, each)
    return found(caller.text(prompt, max_tokens=100), codes)


def lost_places(caller: Caller, each: int = 250) -> list[int]:
    return [place for place, one in enumerate(recalled(caller, each)) if not one]


def middle_lost(caller: Caller) -> bool:
    """Whether one gap is lost, both ends are found, and a short text is read whole."""
    lost = lost_places(caller)
    gap = bool(lost) and lost == list(range(lost[0], lost[-1] + 1)) and lost[0] > 0 and lost[-1] < 11
    return gap and not lost_places(caller, 4)


def head_lost(caller: Caller) -> bool:
    lost = lost_places(caller)
    return lost == list(range(len(lost))) != [] and not lost_places(caller, 4)


def tail_lost(caller: Caller, each: int = 250) -> bool:
    lost = lost_places(caller, each)
    return lost == list(range(12 - len(lost), 12)) != [] and not lost_places(caller, 4)


def summarised(caller: Caller) -> bool:
    lost = lost_places(caller)
    return bool(lost) and lost != list(range(lost[0], lost[-1] + 1))


def older_messages_lost(caller: Caller) -> bool:
    prompt, codes = haystack(12, 250)
    turns = prompt.split(" The code of ")
    messages = [{"role": "user", "content": turn if i == 0 else f"The code of {turn}"} for i, turn in enumerate(turns)]
    missed = [not one for one in found(said(caller.chat(messages, max_tokens=100).json()), codes)]
    return missed[0] and not missed[-1] and all(recalled(caller))


def counts_of_cut(caller: Caller) -> bool:
    return caller.tokens(LONG) <= LIMIT // 2


def slope(caller: Caller, unit: str) -> float:
    return (caller.tokens(unit * 300) - caller.tokens(unit * 100)) / 200


def cached(caller: Caller, prompt: str) -> int:
    return int(caller.usage(prompt)["prompt_tokens_details"]["cached_tokens"])


def cached_above_prefix(caller: Caller) -> bool:
    caller.chat("Note 1." + UNIT * 200)
    return cached(caller, "Note 1." + UNIT * 200 + " with" * 400) > 250


def longest(caller: Caller, most: int = 2 * LIMIT) -> int:
    """The longest prompt in units that is served, with one answer token; 0 if none is."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        served = caller.chat(UNIT * middle, max_tokens=1).status_code == 200
        low, high = (middle, high) if served else (low, middle - 1)
    return low


def listed(caller: Caller) -> int | None:
    rows = httpx.get(f"{caller.url}/v1/models", headers={"Authorization": "Bearer right"}).json()["data"]
    length: int | None = rows[0].get("context_length")
    return length


def refused_by_length(caller: Caller) -> int:
    return int(caller.chat(OVER).json()["error"]["message"].split()[6])


def greedy_answers(caller: Caller) -> int:
    return len({caller.text(COUNT) for _ in range(4)})


def lost_when_cached(caller: Caller) -> bool:
    prompt, codes = haystack(12, 250)
    return [all(found(caller.text(prompt, max_tokens=100), codes)) for _ in range(2)] == [True, False]


def stream_shorter(caller: Caller) -> bool:
    return streamed(caller.stream(COUNT)) != caller.text(COUNT)


def mixed(caller: Caller) -> bool:
    """Whether any of eight requests at once gets the code of another."""
    together = threading.Barrier(8)

    def ask(number: int) -> bool:
        code = str(4_821_900 + number)
        together.wait()
        return code in caller.text(f"The code of the amber falcon is {code}. {TASK.format('the amber falcon')}")

    with ThreadPoolExecutor(8) as pool:
        return not all(pool.map(ask, range(8)))


def dropped_connection(caller: Caller, **fields: object) -> bool:
    try:
        caller.chat(**fields)  # type: ignore[arg-type]
    except httpx.TransportError:
        return True
    return False


def hangs(caller: Caller) -> bool:
    body = {"model": "miniature", "messages": [{"role": "user", "content": OVER}]}
    try:
        httpx.post(
            caller.url + "/v1/chat/completions", json=body, headers={"Authorization": "Bearer right"}, timeout=0.5
        )
    except httpx.ReadTimeout:
        return True
    return False


def goes_on(caller: Caller) -> bool:
    rows = caller.stream(OVER)
    return [row for row in rows if "error" in row] != [] and streamed(rows) != ""


def storm(caller: Caller) -> bool:
    replies = [caller.chat("Hi", max_tokens=1) for _ in range(20)]
    late = [reply for reply in replies if reply.status_code == 429]
    return bool(late) and replies[-1] in late and all("retry-after" not in reply.headers for reply in late)


def read_twice(caller: Caller) -> bool:
    caller.api.pages = True
    told = caller.tokens("Hello there")
    page = httpx.get(f"{caller.url}/metrics").text
    row = next(line for line in page.splitlines() if line.startswith("vllm:prompt_tokens_total"))
    return int(row.split()[-1]) == 2 * told


def gave_key_away(caller: Caller) -> bool:
    """Whether a client that follows redirects with its headers gives its key to another host."""
    reply = caller.chat("Hi")
    if reply.status_code != 307:
        return False
    httpx.post(reply.headers["location"], json={}, headers={"Authorization": "Bearer right"})
    return caller.elsewhere is not None and caller.elsewhere.keys == ["Bearer right"]


def buffered(caller: Caller) -> bool:
    """Whether the first event has not arrived when the thirtieth is made: the server waits there for the client."""
    arrived = threading.Event()
    made: list[int] = []
    early: list[bool] = []

    def wait(tokens: int) -> None:
        made.append(tokens)
        if len(made) == 30:
            early.append(arrived.wait(1))

    caller.api.latency.after_tokens = wait  # type: ignore[method-assign]
    body = {"model": "miniature", "messages": [{"role": "user", "content": COUNT}], "max_tokens": 60, "stream": True}
    headers = {"Authorization": "Bearer right"}
    with httpx.stream("POST", f"{caller.url}/v1/chat/completions", json=body, headers=headers) as reply:
        for _ in reply.iter_lines():
            arrived.set()
    return early == [False]


def after_done(caller: Caller) -> bool:
    return bool(caller.stream(COUNT)[-1] != "[DONE]")


def status(caller: Caller, prompt: str = OVER, **fields: object) -> int:
    return caller.chat(prompt, **fields).status_code  # type: ignore[arg-type]


def empty_200(caller: Caller) -> bool:
    reply = caller.chat(OVER)
    return reply.status_code == 200 and (said(reply.json()), reply.json()["choices"][0]["finish_reason"]) == ("", None)


def breaks_after(caller: Caller) -> bool:
    return [status(caller, "Hi"), status(caller), status(caller, "Hi")] == [200, 400, 503]


def half_counted(caller: Caller) -> bool:
    return [caller.usage("Hi") is None for _ in range(4)] in ([True, False] * 2, [False, True] * 2)


SEEN: dict[str, Callable[[Caller], bool]] = {
    "drops-head": head_lost,
    "drops-tail": tail_lost,
    "drops-middle": middle_lost,
    "drops-head-and-counts-the-rest": lambda c: counts_of_cut(c) and head_lost(c),
    "replaces-middle-by-summary": middle_lost,
    "summarises": summarised,
    "keeps-chance-passages": summarised,
    "skips-block": middle_lost,
    "reads-32-kib": lambda c: tail_lost(c, 900),
    "drops-older-messages": older_messages_lost,
    "counts-characters": lambda c: slope(c, UNIT) == 4,
    "estimates-from-characters": lambda c: slope(c, " with") != 1,
    "counts-half-the-time": half_counted,
    "counts-anew-each-time": lambda c: len({c.tokens("Hi") for _ in range(3)}) == 3,
    "rounds-counts": lambda c: c.tokens(UNIT * 120) == c.tokens(UNIT * 150),
    "counts-no-further": lambda c: counts_of_cut(c) and all(recalled(c)),
    "counts-otherwise-in-stream": lambda c: c.stream("Hi")[-2]["usage"]["prompt_tokens"] != c.tokens("Hi"),
    "counts-answer-in-words": lambda c: c.usage(COUNT, max_tokens=32)["completion_tokens"] != 32,
    "total-is-not-the-sum": lambda c: c.usage("Hi")["total_tokens"] == c.tokens("Hi"),
    "makes-up-cached-tokens": lambda c: cached(c, "Note 7." + UNIT * 200) > 64,
    "cached-above-common-prefix": cached_above_prefix,
    "claims-more": lambda c: (listed(c) or 0) > longest(c) + 100,
    "serves-more": lambda c: longest(c) > (listed(c) or 2 * LIMIT),
    "tells-another-limit": lambda c: refused_by_length(c) == LIMIT + 1000,
    "counts-template-twice": lambda c: c.tokens(UNIT * longest(c), max_tokens=1) + 1 == LIMIT - 7,
    "unequal-replicas": lambda c: len({status(c, UNIT * (LIMIT * 9 // 10)) for _ in range(2)}) == 2,
    "fails-halfway": lambda c: [status(c, UNIT * (LIMIT * i // 4)) for i in (1, 2, 3)] == [200, 500, 200],
    "ignores-max-tokens": lambda c: len(c.text(COUNT, max_tokens=4)) > 100,
    "ignores-max-completion-tokens": lambda c: len(c.text(COUNT, max_tokens=None, max_completion_tokens=4)) > 100,
    "ignores-stop": lambda c: ", 9, 10" in c.text(COUNT, stop=", 7"),
    "returns-stop-sequence": lambda c: c.text(COUNT, stop=", 7").endswith(", 7"),
    "says-stop-when-cut": lambda c: c.chat(COUNT).json()["choices"][0]["finish_reason"] == "stop",
    "changes-greedy-answers": lambda c: greedy_answers(c) == 4,
    "answers-otherwise-from-cache": lost_when_cached,
    "loses-end-of-stream": stream_shorter,
    "mixes-callers": mixed,
    "answers-500-for-over-length": lambda c: status(c) == 500,
    "hangs-for-over-length": hangs,
    "closes-for-over-length": lambda c: dropped_connection(c, prompt=OVER),
    "empty-200-for-over-length": empty_200,
    "error-with-200": lambda c: c.chat(OVER).status_code == 200 and "error" in c.chat(OVER).json(),
    "page-for-over-length": lambda c: c.chat(OVER).text.startswith("<html>"),
    "says-nothing-for-over-length": lambda c: (status(c), c.chat(OVER).text) == (413, ""),
    "goes-on-after-error": goes_on,
    "streams-nothing-for-over-length": lambda c: c.stream(OVER) == ["[DONE]"],
    "breaks-after-over-length": breaks_after,
    "accepts-any-key": lambda c: status(c, "Hi", key="wrong") == 200,
    "accepts-any-model": lambda c: status(c, "Hi", model="another") == 200,
    "accepts-bad-parameters": lambda c: status(c, "Hi", temperature="hot") == 200,
    "fails-on-bad-parameters": lambda c: status(c, "Hi", temperature="hot") == 500,
    "repeats-the-key": lambda c: "wrong-key" in c.chat("Hi", key="wrong-key").text,
    "refuses-bodies-over-32-kib": lambda c: status(c, "abcd" * 9000) == 413,
    "cuts-bodies-at-32-kib": lambda c: "parse the JSON" in c.chat("abcd" * 9000).text,
    "buffers-streams": buffered,
    "reads-twice": read_twice,
    "storms-of-429": storm,
    "redirects-elsewhere": gave_key_away,
    "gives-up-on-silence": lambda c: [status(c, UNIT * 500), status(c, LONG)] == [200, 504],
    "closes-long-streams": lambda c: dropped_connection(c, prompt=COUNT, stream=True, max_tokens=64),
    "sends-after-done": after_done,
}
OPTIONS = {"reads-32-kib": {"limit": 16_384}}


def test_every_fault_is_looked_for():
    assert set(SEEN) == set(FAULTS) - {"honest"}


@pytest.mark.parametrize("name", SEEN)
def test_a_fault_is_seen(serve, name):
    assert SEEN[name](serve(name, **OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", SEEN)
def test_the_honest_api_does_not_show_it(serve, name):
    assert not SEEN[name](serve(**OPTIONS.get(name, {})))
