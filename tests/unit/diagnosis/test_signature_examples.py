"""Every alternative of every pattern, and every value it reads, is covered by a quoted or logged line."""

import re
from pathlib import Path

import pytest

from pytest_longctx.backends import signature_files
from pytest_longctx.diagnosis import signatures
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing.records import records
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.registry import BACKENDS, load
from pytest_longctx.toml import in_range
from tests.unit.recorded_logs import BENIGN, FAILURES, REFUSALS

ROOT = Path(__file__).parents[3]
LOGS = [*(ROOT / "tests/data/logs").glob("*.log"), *(ROOT / "docs/results").rglob("*.log")]
ENGINES = ("vllm", "sglang", "vllm-neuron", "transformers")
CATALOGUES: dict[str, Catalogue] = {name: load(BACKENDS[name])().catalogue for name in ENGINES}
OWN = {name: signatures.load(path) for name, path in {**signatures.engine_files(), **signature_files()}.items()}
"""What only one engine logs."""
CORPUS = [*(ROOT / "tests/data/diagnosis/developed").glob("*.log")]
NAMED = {"vllm": ("0.12.0", "0.25.1", "0.32.0", "0.33.0"), "sglang": ("0.5.6", "0.5.16", "0.5.23")}
"""Engine versions that the catalogues cover."""

OOM = "torch.OutOfMemoryError: {} out of memory. Tried to allocate {}. GPU 0 has a total capacity of 139.80 GiB of which {} is free."
HUB = "OSError: {} is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"
NO_MEMORY = "DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."
ERRNO_12 = "OSError: [Errno 12] Cannot allocate memory"
ARGUMENT = "error: argument --max-model-len: invalid int value: 'x'"

MORE = [
    *(
        (name, "gpu-out-of-memory", OOM.format(maker, size, free))
        for name in ("vllm", "sglang", "transformers")
        for maker, size, free in (
            ("CUDA", "2.22 GiB", "1.05 GiB"),
            ("HIP", "858.00 MiB", "250.31 MiB"),
            ("CUDA", "20.00 KiB", "512 bytes"),
            ("CUDA", "512 bytes", "512 bytes"),
        )
    ),
    *((name, "host-allocation-refused", NO_MEMORY) for name in ("vllm", "sglang", "vllm-neuron")),
    *((name, "host-allocation-refused", ERRNO_12) for name in ("vllm", "sglang", "vllm-neuron")),
    *((name, "unknown-argument", ARGUMENT) for name in ("vllm", "sglang", "vllm-neuron")),
    *((name, "model-missing", HUB.format("org/none")) for name in ("vllm", "sglang", "vllm-neuron")),
    *((name, "model-missing", "OSError: Can't load the configuration of '/x'.") for name in ("vllm", "vllm-neuron")),
    *((name, "environment", "ModuleNotFoundError: No module named 'engine'") for name in ("vllm", "sglang")),
    ("vllm", "fp8-needs-avx512", "ValueError: FP8 KV cache requires head_size divisible by 32 on CPU"),
    ("vllm", "engine-dead", "EngineCore encountered an issue. See stack trace (above) for the root cause."),
    ("vllm-neuron", "model-missing", "HFValidationError: Repo id must be in the form 'repo_name': '/x'."),
    ("vllm-neuron", "worker-died", "Worker proc VllmWorker-2 died unexpectedly (exit code: -9), shutting down"),
    ("vllm-neuron", "engine-failed", "EngineCore encountered a fatal error."),
    ("vllm-neuron", "engine-failed", "WorkerProc failed to start."),
    *(
        ("vllm-neuron", name, f"Failed to allocate {size} (alignment: none, usage: {usage}) on ND 0:NC 2")
        for name, usage in (("collectives-out-of-memory", "collectives"), ("device-out-of-memory", "model code"))
        for size in ("1.500GB", "40.000MB", "12.000KB")
    ),
    ("vllm-neuron", "device-out-of-memory", "Failed to alloc DEVICE memory: 41943040"),
    ("transformers", "model-missing", "OSError: Repo id must be in the form 'repo_name': '/x'."),
]

TOLD = [
    ("trtllm", "[04/18/2026-12:59:30] [TRT-LLM] [RANK 0] [I] iter = 880, global_rank = 0, rank = 0", "serve"),
    ("trtllm", "[04/18/2026-12:59:30] [TRT-LLM] [RANK 0] [I] iter = 8, global_rank = 0, rank = 0", "warm-up"),
    (
        "sglang",
        "[2026-08-13 07:43:55 TP0] Capture cuda graph end. Time elapsed: 88.14 s. mem usage=2.31 GB.",
        "warm-up",
    ),
    ("vllm", "Starting vLLM server version 0.33.0", {"engine_version": "0.33.0"}),
    ("vllm", "Dynamo bytecode transform time: 7.22 s", "compile"),
    ("vllm", "Compiling a graph for dynamic shape takes 30.91 s", "compile"),
    ("vllm", "Capturing CUDA graph shapes:  91%|#########1| 61/67 [00:31<00:03,  1.95it/s]", "graphs"),
    (
        "vllm",
        "INFO 10-23 19:55:16 model_runner.py:1067] Loading model weights took 19.8557 GB",
        {"weights_gib": 19.8557},
    ),
    ("vllm", "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%", "graphs"),
    ("vllm", "Maximum concurrency for 8,388,608 tokens per request: 1.86x", {"concurrency": 1.86}),
    ("sglang", "Capture cuda graph begin. This can take up to several minutes. avail mem=4.54 GB", "graphs"),
    ("sglang", "Capture target prefill CUDA graph begin. avail mem=4.54 GB", "graphs"),
    ("vllm-neuron", "vLLM API server version 0.13.0", {"engine_version": "0.13.0"}),
    ("vllm-neuron", "▄▄ ▄█ █  version 0.13.0", {"engine_version": "0.13.0"}),
    ("vllm-neuron", "Initializing a V1 LLM engine (v0.13.0) with config:", {"engine_version": "0.13.0"}),
    ("vllm-neuron", "Resolved architecture: LlamaForCausalLM", "config"),
    ("vllm-neuron", "quantization=None, kv_cache_dtype=auto, device_config=cpu", {"kv_cache_dtype": "auto"}),
    ("vllm-neuron", "Generating HLOs for the following models: ['context_encoding_model']", "compile"),
    ("vllm-neuron", "Generating 7 hlos for key: context_encoding_model", "compile"),
    ("vllm-neuron", "Generated all HLOs in 66.27 seconds", "compile"),
    ("vllm-neuron", "Finished building model in 312.8 seconds", "load"),
    ("vllm-neuron", "Finished weights loading in 43.25 seconds", {"weights_s": 43.25}),
    ("vllm-neuron", "Neuron KV cache size: 65,568 tokens", {"kv_cache_tokens": 65_568.0}),
    ("vllm-neuron", "Maximum concurrency for 16,384 tokens per request: 4.00x", {"concurrency": 4.0}),
    ("vllm-neuron", "INFO:     Application startup complete.", "serve"),
    ("transformers", "loaded by transformers 5.19.0 in 2.1 s", {"engine_version": "5.19.0"}),
]

HARMLESS = [
    *BENIGN,
    ("sglang", '"GET /ready HTTP/1.1" 503 Service Unavailable'),
]


def alternatives(regex: str, *, top: bool = False) -> str:
    """Return *regex* with an empty group ``alternative_N`` at the end of each alternative, or only of those at its *top*."""
    bars: list[list[int]] = [[]]
    ends: list[int] = []
    for found in re.finditer(r"\\.|\[\]?(?:\\.|[^\]\\])*\]|[(|)]", regex):
        at, token = found.start(), found[0]
        if token == "(":
            bars.append([])
        elif token == "|":
            bars[-1].append(at)
        elif token == ")" and (here := bars.pop()) and not top:
            ends += [*here, at]
    ends += [*bars[0], len(regex)] if bars[0] else []
    for number, at in sorted(enumerate(sorted(ends)), reverse=True):
        regex = f"{regex[:at]}(?P<alternative_{number}>){regex[at:]}"
    return regex


def shown(marked: re.Pattern[str], line: str) -> set[str]:
    """Return the groups of *marked* that take part in a match of *line*."""
    found = marked.search(line)
    return {group for group, is_ in found.groupdict().items() if is_ is not None} if found else set()


def test_each_alternative_is_told_from_the_others():
    marked = re.compile(alternatives(r"a(?:b|[|)]|\|\()c|d"))
    said = {text: sorted(shown(marked, text)) for text in ("abc", "a|c", "a|(c", "d")}
    assert said == {
        "abc": ["alternative_0", "alternative_3"],
        "a|c": ["alternative_1", "alternative_3"],
        "a|(c": ["alternative_2", "alternative_3"],
        "d": ["alternative_4"],
    }


def examples(known: Catalogue) -> list[str]:
    """The lines that *known* quotes."""
    quoted = [line for each in (*known.signature, *known.refusal) for line in (each.example, *each.also)]
    return quoted + [line for each in known.benign for line in (each.example, *each.also)]


def lines(name: str) -> set[str]:
    """Return all lines quoted for an engine or logged by it, with and without their prefixes."""
    quoted = [*((owner, line) for owner, line, *_ in FAILURES), *((owner, line) for owner, line, *_ in REFUSALS)]
    quoted += [*HARMLESS, *((owner, line) for owner, _, line in MORE), *((owner, line) for owner, line, _ in TOLD)]
    texts = [text for owner, text in quoted if owner.removesuffix("-rocm") == name] + examples(OWN[name])
    texts += [log.read_text(encoding="utf-8", errors="replace") for log in LOGS if f"/{name}-" in log.as_posix()]
    whole = {re.sub(r"\x1b\[[0-9;]*m", "", line) for text in texts for line in text.splitlines()}
    return whole | LABELLED | {each.text for line in whole for each in records(line)}


LABELLED = {line for log in CORPUS for line in log.read_text(encoding="utf-8", errors="replace").splitlines()}
LABELLED |= {each.text for line in LABELLED for each in records(line)}
LINES = {name: lines(name) for name in OWN}
ENTRIES = [
    *((name, each.regex, each.id) for name in OWN for each in OWN[name].signature),
    *((name, each.regex, each.id) for name in OWN for each in OWN[name].refusal),
    *((name, each.regex, each.id) for name in OWN for each in OWN[name].benign),
    *((name, each.regex, "fact") for name in OWN for each in OWN[name].fact),
]


@pytest.mark.parametrize(
    "entry", [*signatures.common().signature, *signatures.common().benign], ids=lambda each: each.id
)
def test_no_wording_that_every_engine_has_is_without_a_line(entry):
    marked = re.compile(alternatives(entry.regex, top=True))
    known = [*LABELLED, *examples(signatures.common())]
    found = {group for line in known if marked.search(line) for group in shown(marked, line)}
    assert {group for group in marked.groupindex if group.startswith("alternative")} <= found


@pytest.mark.parametrize(("name", "regex", "what"), ENTRIES)
def test_no_part_of_a_pattern_is_without_a_line(name, regex, what):
    marked = re.compile(alternatives(regex))
    matched = [line for line in LINES[name] if marked.search(line)]
    assert matched, what
    assert set(marked.groupindex) == {group for line in matched for group in shown(marked, line)}, what


@pytest.mark.parametrize(("name", "signature", "line"), MORE)
def test_each_wording_is_that_failure(name, signature, line):
    reading = LogReader(CATALOGUES[name])
    reading.feed(line)
    assert reading.failure is not None
    assert reading.failure.signature.id == signature


@pytest.mark.parametrize(("name", "line", "reported"), TOLD)
def test_each_line_of_a_boot_is_read(name, line, reported):
    reading = LogReader(CATALOGUES.get(name) or OWN[name])
    reading.feed(line)
    if isinstance(reported, str):
        assert reading.phase == reported
    else:
        assert {**reading.figures, **reading.words} == reported


@pytest.mark.parametrize("name", NAMED)
def test_a_signature_is_about_a_version_that_is_named(name):
    for each in (*CATALOGUES[name].signature, *CATALOGUES[name].refusal):
        assert each.version is None or any(in_range(version, each.version) for version in NAMED[name]), each.id


def said(text: str) -> set[str]:
    """Return its words of at least four letters."""
    return {word.lower() for word in re.findall(r"[A-Za-z]{4,}", text)}


@pytest.mark.parametrize("name", ENGINES)
def test_a_near_miss_is_near(name):
    """An unrelated line proves nothing about a pattern."""
    known = CATALOGUES[name]
    for each in (*known.signature, *known.refusal):
        assert said(each.near_miss) & said(each.example), each.id
    for one in known.benign:
        assert said(one.near_miss) & said(one.example), one.id
