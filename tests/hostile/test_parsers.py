"""Fuzzers of every parser of foreign text: no exception but the documented one, and no result that cannot be."""

import json
import math
import string
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_longctx import shapes, toml
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client import server_metrics
from pytest_longctx.client.event_stream import EventParser, OversizedEvent
from pytest_longctx.client.exchange import Refusal
from pytest_longctx.client.json_values import count_of, json_of
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.errors import LongctxError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.plugin.sharding import Shard
from pytest_longctx.redaction import cleaned
from pytest_longctx.reports.compare import limits
from tests.hostile import EXAMPLES

FUZZ = settings(deadline=None, max_examples=EXAMPLES)
NUMBERS = st.sampled_from(["0", "-1", "NaN", "Infinity", "1e999", "9" * 400, "9" * 5000, "٣", "0x1", "1_000", "-0.0"])
HOSTILE_TEXT = st.one_of(
    st.text(max_size=60), NUMBERS, st.sampled_from(["\x00", "\ud800", "\x1b[2J", "::error::", "</script>"])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "code", "choices", "text", "delta", "content", "usage", "prompt_tokens"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
JSON_TEXT = st.one_of(
    JSON.map(json.dumps), HOSTILE_TEXT, st.just('{"a":' * 50_000), st.just("[" * 50_000 + "]" * 50_000)
)


@FUZZ
@given(JSON_TEXT | st.binary(max_size=40))
@example("9" * 5000)
@example("NaN")
@example("[" * 600 + "]" * 600)
def test_json_of_a_server(text):
    try:
        found = json_of(text)
    except ValueError:
        return
    json.dumps(cleaned(found), allow_nan=False)


@FUZZ
@given(st.integers() | st.floats() | st.booleans() | st.none() | HOSTILE_TEXT)
def test_a_count_is_a_count(value):
    found = count_of(value)
    assert found is None or (type(found) is int and 0 <= found <= 2**53)


@FUZZ
@given(st.integers(100, 599), JSON_TEXT)
@example(400, '{"error":' * 990 + "1" + "}" * 990)
def test_an_error_body_is_a_refusal(status, text):
    found = Refusal.read(status, text)
    assert len(found.text) <= 500
    found.text.encode()
    assert "\x1b" not in found.text


METRIC = st.sampled_from([name for slot in Vllm.metrics.model_dump().values() for name in slot])
LABELS = st.sampled_from(["", '{engine="0"}', '{engine="0', '{a="\\', "{}", '{cache_dtype="auto"}', "{" * 20])
METRICS_PAGE = st.lists(st.builds("{}{} {}".format, METRIC, LABELS, NUMBERS | HOSTILE_TEXT), max_size=8).map("\n".join)


@FUZZ
@given(METRICS_PAGE | HOSTILE_TEXT, METRICS_PAGE)
def test_a_metrics_page_gives_figures_or_none(text, before):
    pages = []
    for each in (before, text):
        try:
            pages.append(server_metrics.read(each, Vllm.metrics))
        except ValueError:
            return
    for name in ("running", "waiting", "kv_usage", "prompt_tokens", "generated_tokens", "ttft_s"):
        value = getattr(pages[1], name)
        assert value is None or (math.isfinite(value) and value >= 0)
    ledger = pages[1].since(pages[0])
    assert ledger.prompt_tokens is None or ledger.prompt_tokens >= 0
    server_metrics.moved(*pages)


STREAM = st.lists(
    st.sampled_from(
        [
            b"data: a",
            b"data:b",
            b"data",
            b":c",
            b"id: 1",
            b"event: ping",
            b"\xef\xbb\xbf",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"x",
        ]
    ),
    max_size=20,
).map(b"".join)


def by_the_standard(text):
    """Events as the HTML standard defines them, read in one piece."""
    lines = (
        text.decode("utf-8", "replace")
        .removeprefix("\ufeff")
        .replace("\r\n", "\n")
        .replace("\r", "\n")
        .split("\n")[:-1]
    )
    found: list[tuple[str, str]] = []
    data: list[str] = []
    kind = ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            found += [("\n".join(data), kind or "message")] if data else []
            data, kind = [], ""
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
    return found


@FUZZ
@given(STREAM, st.lists(st.integers(1, 7), min_size=1))
@example(b"data: a\r\n\r\ndata: b\r\r", [1])
def test_a_stream_is_read_by_the_standard_wherever_it_is_cut(text, sizes):
    parser, found, at = EventParser(), [], 0
    for index in range(len(text) + 1):
        size = sizes[index % len(sizes)]
        found += [(event.data, event.type) for event in parser.feed(text[at : at + size])]
        at += size
    assert found == by_the_standard(text)


@pytest.mark.parametrize("piece", [b"x" * 100, b"data: " + b"x" * 20 + b"\n", b":" * 100])
def test_an_event_has_a_limit(piece):
    parser = EventParser(most_bytes=1000)
    with pytest.raises(OversizedEvent):
        list(chain.from_iterable(parser.feed(piece) for _ in range(100)))


TOML_VALUES = st.one_of(
    NUMBERS,
    HOSTILE_TEXT.map(json.dumps),
    st.sampled_from(["nan", "inf", "-inf", "true", "[]", "{}", "1979-05-27", "[" * 3000 + "]" * 3000, "{a={a={a=1}}}"]),
)
KEYS = st.sampled_from(
    [
        *Deployment.model_fields,
        *Finding.model_fields,
        "flags.port",
        "timeouts.boot_s",
        "bounds.ttft_s.at_most",
        "a." * 5000 + "b",
    ]
) | st.text(string.ascii_letters, min_size=1, max_size=5)
TOML_TEXT = st.lists(st.builds("{} = {}".format, KEYS, TOML_VALUES), max_size=6).map("\n".join)


@FUZZ
@given(TOML_TEXT | HOSTILE_TEXT, st.sampled_from([Deployment, Finding]))
@example("x = " + "[" * 50_000, Deployment)
@example("x = " + "9" * 5000, Deployment)
def test_a_toml_file_is_a_table_or_a_table_error(tmp_path_factory, text, kind):
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        toml.load(path, kind)
    except LongctxError as problem:
        assert len(str(problem)) < 20_000  # noqa: PT017


CONFIG_KEYS = st.sampled_from(
    [
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rope_scaling",
        "vocab_size",
        "intermediate_size",
        "text_config",
        "quantization_config",
        "sliding_window",
        "layer_types",
        "torch_dtype",
    ]
)
CONFIG = st.dictionaries(
    CONFIG_KEYS, JSON | st.sampled_from(["llama", "qwen3", "deepseek_v3", 32, 4096, -1, 10**400]), max_size=10
)


@FUZZ
@given(CONFIG, st.none() | CONFIG)
def test_any_config_is_a_shape_or_not_understood(config, quantised):
    found = shapes.read({"model_type": "llama", **config}, quantised)
    assert isinstance(found, shapes.ModelShape | shapes.NotUnderstood)


@FUZZ
@given(HOSTILE_TEXT | st.from_regex(r"[0-9]{1,30}x[A-Za-z0-9]{1,5}", fullmatch=True))
@pytest.mark.parametrize("parse", [Hardware.parse, Shard.parse, limits], ids=["hardware", "shard", "fail-on"])
def test_a_flag_is_a_value_or_a_usage_error(parse, text):
    try:
        parse(text)
    except (LongctxError, ValueError) as problem:
        if parse != Hardware.parse:  # its callers name the option
            assert isinstance(problem, LongctxError)  # noqa: PT017


LINES = st.lists(
    HOSTILE_TEXT
    | st.builds("Using max model len {}".format, NUMBERS)
    | st.builds("GPU KV cache size: {} tokens".format, NUMBERS)
    | st.builds("Maximum concurrency for {} tokens per request: {}x".format, NUMBERS, NUMBERS)
    | st.builds("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {} GiB".format, NUMBERS),
    max_size=8,
)


@FUZZ
@given(LINES, st.sampled_from([Vllm(), Sglang()]))
def test_any_log_can_be_read(lines, backend):
    reader = LogReader(backend.catalogue)
    for line in lines:
        reader.feed(line)
