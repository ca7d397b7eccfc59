"""Damaged inputs of every parser of foreign text: no exception but the documented ones. ``LONGCTX_FUZZ_EXAMPLES`` takes more."""

import asyncio
import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from pytest_longctx import cli, paths, shapes, toml
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.certificate import wire
from pytest_longctx.certificate.dialects import known
from pytest_longctx.certificate.reply import Arrived
from pytest_longctx.client import server_metrics
from pytest_longctx.client.event_stream import EventParser
from pytest_longctx.client.exchange import Refusal
from pytest_longctx.client.json_values import count_of, json_of
from pytest_longctx.client.request import StreamedRequest
from pytest_longctx.deployments import script
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.engine_of_log import engine_of
from pytest_longctx.diagnosis.log_file import read as read_log
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.errors import LongctxError, TableError, UsageError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.launchers import lint, readiness_probe
from pytest_longctx.launchers.kubernetes import pods
from pytest_longctx.launchers.start_command import of_command, of_pod
from pytest_longctx.plugin.sharding import Shard
from pytest_longctx.redaction import shown
from pytest_longctx.reports import compare, history, junit, log_report, resume
from pytest_longctx.reports import results as results_files
from pytest_longctx.reports.exports import aiperf, llm_d
from pytest_longctx.reports.exports.workloads import workloads
from tests.hostile import EXAMPLES, SEED
from tests.hostile.mutations import Parser, failures
from tests.hostile.servers import CHUNK, METRICS, ROW, USAGE, events, server_at
from tests.hostile.test_rows import GOOD, read_everywhere
from tests.unit import factories
from tests.unit.launchers.test_kubernetes_pods import BOUND, NOWHERE, event, over, pod, waiting
from tests.unit.recorded_logs import FAILURES

SERVER = server_at("http://127.0.0.1:1")
ENGINES = (Vllm(), Sglang())
DIALECTS = tuple(known())
PROMPT = factories.LLAMA_8B
LOG = tuple(
    path.read_bytes()[-6000:] for path in sorted((Path(__file__).parents[1] / "data" / "logs").glob("*.log"))
) + tuple(f"ERROR 01-02 03:04:05 [core.py:1] {row[1]}\n".encode() for row in FAILURES)
TOML = tuple(
    path.read_bytes()
    for kind in ("findings", "deployments")
    for path in sorted((paths.suites() / kind).glob("*.toml"))[::15]
)
COMMANDS = (
    b"vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 8 --max-model-len 131072 --kv-cache-dtype fp8",
    b"docker run --rm --gpus all --shm-size 16g -p 8000:8000 -e HF_TOKEN=x vllm/vllm-openai:v0.12.0 --model m --max-num-seqs=8",
    b"python3 -m sglang.launch_server --model-path m --tp 4 --context-length 1000000 --mem-fraction-static 0.85",
    b'bash -c \'export A=1; exec vllm serve m --hf-overrides {"a":1} --speculative-config {"num_speculative_tokens":2}\'',
    b'vllm serve m --config x.yaml --rope-scaling {"rope_type":"yarn","factor":4.0} -tp=2 -pp 2 --gpu-memory-utilization .9',
)
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}],
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        "containers": [
            {
                "name": "engine",
                "image": "vllm/vllm-openai:v0.12.0",
                "args": ["--model", "m", "--max-model-len", "131072"],
                "env": [{"name": "A", "value": "b"}],
                "ports": [{"containerPort": 8000}],
                "resources": {"limits": {"nvidia.com/gpu": "8", "memory": "64Gi"}},
                "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                "livenessProbe": {"httpGet": {"path": "/health"}, "periodSeconds": 10, "failureThreshold": 3},
                "startupProbe": {"httpGet": {"path": "/health"}, "periodSeconds": 10, "failureThreshold": 60},
            }
        ],
    },
}
COMPOSE = {
    "services": {
        "llm": {
            "image": "vllm/vllm-openai:v0.12.0",
            "command": ["--model", "m", "--tensor-parallel-size", "8"],
            "environment": {"A": "b"},
            "shm_size": "16g",
            "ipc": "host",
            "deploy": {"resources": {"reservations": {"devices": [{"count": 8, "capabilities": ["gpu"]}]}}},
        }
    }
}
PODS = [
    {"pods": [made], "events": told}
    for made, told in (
        (pod(waiting("ImagePullBackOff", "Back-off")), [event("Failed", "couldn't parse")]),
        (pod(over(137, "OOMKilled"), "Failed", labels={"app": "x"}), [event("Killing", "failed liveness probe")]),
        (pod(conditions=[NOWHERE]), [event("TriggeredScaleUp", "m")]),
        (pod({"running": {"startedAt": "x"}}, "Running", conditions=[BOUND]), []),
    )
]
CHAT = {
    "choices": [
        {"delta": {"role": "assistant", "content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1.0}]}}
    ]
}
TRACED = {
    "choices": [
        {"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0, "b": -2}]}}
    ]
}
ROWS = b"".join(json.dumps(row).encode() + b"\n" for row in GOOD)
JUNIT = (
    b'<?xml version="1.0"?><testsuites><testsuite name="pytest"><testcase classname="t" name="a[x]"><properties>'
    b'<property name="longctx" value="1"/></properties><failure message="m">text</failure></testcase></testsuite></testsuites>'
)


def text_of(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def stream(raw: bytes) -> None:
    """The client's own reader of a streamed answer, event by event."""
    talk = StreamedRequest(SERVER, None, 4, 5.0, lambda _: None, traced=True)  # type: ignore[arg-type]
    response = httpx.Response(200, stream=_Pieces(raw))
    assert asyncio.run(talk._read(response)) in ("complete", "refused", "server error", "malformed", "died mid-stream")


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    async def __aiter__(self):
        for at in range(0, len(self.raw), 50):
            yield self.raw[at : at + 50]


def metrics(raw: bytes) -> None:
    for names in (Vllm.metrics, Sglang.metrics):
        page = server_metrics.read(text_of(raw), names)
        server_metrics.moved(page, page)
        page.since(page)


def models(raw: bytes) -> None:
    listed = httpx.Response(200, content=raw)
    for row in (readiness_probe._models(listed) or {}).values():
        count_of(Vllm().limit_in(row))
    readiness_probe._is_completion(listed)
    readiness_probe._version(Vllm(), listed)


def dialect_pages(raw: bytes) -> None:
    page = json_of(raw)
    for dialect in DIALECTS:
        for streamed in (True, False):
            Arrived(dialect, 16).page(page, streamed=streamed, now_s=0.0)


def headers(raw: bytes) -> None:
    wire.other_host("http://h", text_of(raw))
    wire._retry_after(text_of(raw))


def log(raw: bytes) -> None:
    for backend in ENGINES:
        reader = LogReader(backend.catalogue)
        for line in text_of(raw).splitlines():
            reader.feed(line)
        assess(reader, Evidence(exit_code=1))


def flags(raw: bytes) -> None:
    for parse in (Hardware.parse, Shard.parse, compare.limits):
        with contextlib.suppress(LongctxError, ValueError):
            parse(text_of(raw))


def config(raw: bytes) -> None:
    found = json.loads(raw)
    if isinstance(found, dict):
        shapes.read(found)


def planned(raw: bytes) -> None:
    words = script.split(text_of(raw).replace("\0", ""))
    silently("plan", "--hardware=8xH100", "--", *(words or [""]))


def lints(raw: bytes) -> None:
    list(lint.lint(of_command(text_of(raw).replace("\0", ""))))


def pod_lints(raw: bytes) -> None:
    list(lint.lint(of_pod(text_of(raw))))


def states(raw: bytes) -> None:
    found = json.loads(raw)
    if isinstance(found, dict):
        pods.look(found.get("pods"), found.get("events"), 200.0)  # type: ignore[arg-type]


def silently(*words: str) -> None:
    """Run the console: it turns every exception into one message, which says so."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        cli.main(list(words))
    if "was not understood" in said.getvalue():
        raise AssertionError(said.getvalue())


@cache
def honest_results(folder: Path) -> results_files.Results:
    path = folder / "honest.jsonl"
    path.write_bytes(ROWS)
    return results_files.read(path)


def toml_file(path: Path) -> None:
    for kind in (Deployment, Finding):
        with contextlib.suppress(LongctxError):
            toml.load(path, kind)


def rows(path: Path) -> None:
    found = results_files.read(path)
    results_files.merge({"a": found})
    compare.compare(*compare.on_equal_terms(honest_results(path.parent), found))
    resume.read(path)
    for workload in workloads(found).found:
        llm_d.report(found, workload)
        aiperf.export(found, workload)


def stored(path: Path) -> None:
    store = path.parent / "store"
    for each in store.glob("*"):
        each.unlink()
    history.add(store, path)
    list(history.trends(store, "ttft_s"))


@cache
def catalogues() -> Mapping[str, Catalogue]:
    return cli.catalogues()


def diagnosed(raw: bytes) -> None:
    """A report on a log, but for the findings that document its cause, which are read anew for each."""
    engine = engine_of([raw])
    catalogue = catalogues().get(engine or "") or catalogues()["every engine"]
    reading = read_log([raw], catalogue, None)
    state, found = assess(reading, Evidence(exit_code=1))
    report = log_report.LogReport("boot.log", engine, reading, state, found, ())
    json.dumps(report.as_json(), allow_nan=False)
    "\n".join(report.lines())


FILES: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "TOML": ("d.toml", toml_file),
    "results": ("results.jsonl", rows),
    "reports": ("report.jsonl", lambda path: read_everywhere(path, honest_results(path.parent))),
    "history": ("store.jsonl", stored),
    "JUnit": ("report.xml", lambda path: junit.complete(path, {}, of_suite=True)),
    "manifests": ("pod.yaml", lambda path: silently("plan", "--hardware=8xH100", str(path))),
    "JSON manifests": ("pod.json", lambda path: silently("plan", "--hardware=8xH100", str(path))),
}
"""Readers that need a file: its name, and how it is read."""


def parser(
    *honest: Any, read: Callable[[bytes], object], errors: tuple[type[Exception], ...] = (), share: float = 1.0
) -> Parser:
    made = tuple(each if isinstance(each, bytes) else json.dumps(each).encode() for each in honest)
    return Parser(made, read, errors, share)


STREAMS = (
    events(CHUNK, CHUNK, USAGE),
    events(CHAT, USAGE),
    events({"error": {"message": "m", "code": 400}}),
    events(TRACED),
)
PARSERS = {
    "event stream": parser(*STREAMS, read=lambda raw: list(EventParser().feed(raw))),
    "streamed answer": parser(*STREAMS, read=stream, share=0.5),
    "metrics": parser(
        METRICS.encode(),
        *(p.read_bytes()[:3000] for p in sorted((Path(__file__).parents[1] / "data" / "metrics").glob("*.txt"))),
        read=metrics,
        errors=(ValueError,),
        share=0.3,
    ),
    "model list": parser(
        {"object": "list", "data": [ROW]},
        {"choices": [{"text": "a"}], "version": "0.12.0"},
        read=models,
        errors=(ValueError,),
    ),
    "error body": parser(
        {"error": {"message": "m", "code": 400}},
        {"object": "error", "message": "maximum context length is 4096 tokens"},
        b"<html>413</html>",
        read=lambda raw: Refusal.read(400, text_of(raw)),
    ),
    "pages in dialects": parser(
        CHUNK,
        CHAT,
        USAGE,
        {"type": "response.output_text.delta", "delta": "a", "response": {"usage": {"input_tokens": 3}}},
        {"text": "a", "meta_info": {"prompt_tokens": 3, "finish_reason": {"type": "stop"}}},
        read=dialect_pages,
        errors=(ValueError,),
    ),
    "headers": parser(b"http://h/v1", b"Wed, 21 Oct 2026 07:28:00 GMT", b"120", b"//other:80/x", read=headers),
    "shown text": parser(
        b"\x1b[31mred\n::error::x",
        b"http://me:p@h/?api_key=abcdefgh",
        b'{"api_key": ["abcdefgh"]} Bearer abc0123456789',
        read=lambda raw: shown(text_of(raw), ["abc0123456789"]),
    ),
    "flags": parser(b"8xH100", b"4x80GiB", b"1/2", b"ttft_s:10%,tpot_s:5%", read=flags, share=0.3),
    "config.json": parser(
        PROMPT,
        {**PROMPT, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "layer_types": ["full_attention"] * 32},
        {
            "model_type": "deepseek_v3",
            "num_hidden_layers": 61,
            "hidden_size": 7168,
            "kv_lora_rank": 512,
            "num_attention_heads": 128,
            "n_routed_experts": 256,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        },
        {"text_config": PROMPT, "vision_config": {"hidden_size": 64}},
        read=config,
        errors=(ValueError, RecursionError),
        share=0.5,
    ),
    "logs": parser(*LOG, read=log, share=0.02),
    "Pod states": parser(*PODS, read=states, errors=(ValueError, RecursionError, LongctxError)),
    "lint of a command": parser(*COMMANDS, read=lints, errors=(TableError,), share=0.2),
    "lint of a Pod": parser(POD, read=pod_lints, errors=(TableError,), share=0.2),
    "plan of a command": parser(*COMMANDS, read=planned, errors=(UsageError,), share=0.01),
    "TOML": parser(*TOML, read=bool, share=0.2),
    "results": parser(
        ROWS, *(json.dumps(row).encode() + b"\n" for row in GOOD), read=bool, errors=(LongctxError,), share=0.1
    ),
    "reports": parser(ROWS, read=bool, errors=(LongctxError,), share=0.02),
    "history": parser(ROWS, read=bool, errors=(LongctxError,), share=0.05),
    "JUnit": parser(JUNIT, read=bool, errors=(ET.ParseError, ValueError), share=0.2),
    "manifests": parser(
        json.dumps(POD, indent=1).encode(),
        b"services:\n  a:\n    image: vllm/vllm-openai:v0.12.0\n    command: --model m\n    shm_size: 16g\n",
        read=bool,
        share=0.02,
    ),
    "JSON manifests": parser(POD, COMPOSE, read=bool, share=0.02),
    "diagnose": parser(*LOG, read=diagnosed, share=0.02),
}


@pytest.mark.timeout(120 + EXAMPLES)
@pytest.mark.parametrize("name", PARSERS)
def test_no_damaged_input_raises_an_exception_that_is_not_documented(name, tmp_path):
    made = PARSERS[name]
    file_name, of_file = FILES.get(name, ("", None))
    path = tmp_path / file_name

    def read(raw: bytes) -> object:
        if of_file is None:
            return made.read(raw)
        path.write_bytes(raw)
        return of_file(path)

    count = max(20, round(EXAMPLES * made.share))
    assert failures(replace(made, read=read), f"{name} {SEED}", count) == {}
