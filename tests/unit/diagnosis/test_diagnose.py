"""Diagnosis of a failed server: logs of real servers, every quoted line, and unknown errors."""

import importlib
import random
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends import Backend
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, diagnose, explain_refusal
from pytest_longctx.diagnosis.log_evidence import ProcessEnd
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import PHASES
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import KINDS
from pytest_longctx.registry import BACKENDS, load
from tests.unit.recorded_logs import BENIGN, FAILURES, REFUSALS

LOGS = Path(__file__).parents[2] / "data" / "logs"

SERVED: dict[str, dict[str, float]] = {
    "sglang-0.5.16-1xh200-10m-max-running-requests-8-serving-1m": {"kv_cache_tokens": 2_733_048, "weights_gib": 58.12},
    "sglang-0.5.16-1xh200-128k-serving-and-refusals": {"max_model_len": 131_072},
    "sglang-0.5.16-1xh200-2m-graphs-serving": {"max_model_len": 2_000_000},
    "sglang-0.5.16-1xh200-fp8-e5m2-falls-back": {"kv_cache_tokens": 55_706_342},
    "vllm-0.32.0-cpu-64k-serving": {"kv_cache_tokens": 5_711_392, "concurrency": 87.15},
}
FAILED: dict[str, tuple[str, str, str, str, dict[str, float]]] = {
    "sglang-0.5.16-1xh200-10m-graphs-grid-limit": ("kernel-limit", "graphs", "certain", "dies", {}),
    "sglang-0.5.16-1xh200-10m-oom-default-requests": (
        *("gpu-oom-kv", "kv_cache", "certain", "runs out of memory"),
        {"allocation_gib": 2.22, "device_gib": 139.8, "device_free_gib": 250.31 / 1024},
    ),
    "vllm-0.25.1-1xh200-fp8-e5m2-assertion": ("fp8-assertion", "first forward", "certain", "asserts", {}),
    "vllm-0.25.1-8xh200-10m-fp8-host-oom": ("unknown", "kv_cache", "unknown", "dies", {}),
    "vllm-0.32.0-cpu-10m-kv-too-small": (
        *("kv-cache-too-small", "kv_cache", "certain", "refuses"),
        {"max_model_len": 1e7, "kv_needed_gib": 2.39, "kv_available_gib": 1.0, "longest_fitting_tokens": 4_163_456},
    ),
}


def backend(name: str) -> Backend:
    made: Backend = load(BACKENDS[name])()
    return made


def log(name: str) -> LogReader:
    return read([(LOGS / f"{name}.log").read_bytes()], backend(name.partition("-")[0]).catalogue)


def of(name: str, text: str, version: str | None = None) -> LogReader:
    return read([text.encode()], backend(name).catalogue, version)


def test_every_log_is_looked_at():
    assert {path.stem for path in LOGS.glob("*.log")} == SERVED.keys() | FAILED.keys()


@pytest.mark.parametrize("name", SERVED)
def test_a_server_that_was_stopped_has_not_failed(name):
    reading = log(name)
    assert (reading.phase, reading.failure, reading.errors.text, reading.errors.complaint) == ("stop", None, None, None)
    assert reading.figures.items() >= SERVED[name].items()


@pytest.mark.parametrize("name", FAILED)
def test_a_real_failure_has_its_class_phase_and_size(name):
    kind, phase, confidence, outcome, sizes = FAILED[name]
    found = diagnose(log(name), Evidence())
    assert (found.kind, found.phase, found.confidence, found.outcome) == (kind, phase, confidence, outcome)
    assert found.sizes == pytest.approx(sizes)


def test_a_worker_that_ended_without_a_word_is_unknown_and_host_oom_where_the_kernel_says_so():
    silent = log("vllm-0.25.1-8xh200-10m-fp8-host-oom")
    found = diagnose(silent, Evidence())
    assert found.signature == "worker-died"
    assert found.cause == "unknown: a child process ended without a word of its own, no cause in the log"
    assert found.evidence[0].endswith("Worker proc VllmWorker-2 died unexpectedly, shutting down executor.")
    assert "dmesg" in found.doubt
    known = diagnose(silent, Evidence(memory_kills=(VICTIM,)))
    assert (known.kind, known.confidence) == ("host-oom", "certain")
    assert "--max-num-seqs" in known.remedy


@pytest.mark.parametrize(("name", "line", "signature", "kind", "phase", "sizes"), FAILURES)
def test_a_quoted_line_is_known(name, line, signature, kind, phase, sizes):
    found = of(name, line).failure
    assert found is not None
    assert (found.signature.id, found.kind, found.phase) == (signature, kind, phase)
    assert found.metrics.items() >= {measure: pytest.approx(size) for measure, size in sizes.items()}.items()


@pytest.mark.parametrize(("name", "text", "signature", "sizes"), REFUSALS)
def test_a_quoted_refusal_is_known_and_is_no_failure_of_the_server(name, text, signature, sizes):
    catalogue = backend(name).catalogue
    found = explain_refusal(catalogue, text)
    assert found is not None
    assert found[0] == signature
    assert found[2].items() >= sizes.items()
    assert signature == "engine-error" or of(name, text).failure is None


@pytest.mark.parametrize(("name", "line"), BENIGN)
def test_a_line_that_only_looks_fatal_is_neither_a_failure_nor_the_first_error(name, line):
    reading = of(name, f"{line}\n" * 4)
    assert (reading.failure, reading.errors.text, reading.errors.complaint) == (None, None, None)
    assert sum(count for _, count in reading.benign()) == 4


PLACES = [
    ("vllm", "in load_model", "gpu-oom-weights", "load"),
    ("vllm", "in profile_run", "gpu-oom-profile", "profile"),
    ("vllm", "in _allocate_kv_cache_tensors", "gpu-oom-kv", "kv_cache"),
    ("vllm", "in compile_or_warm_up_model", "gpu-oom-profile", "warm-up"),
    ("vllm", "in capture_model", "gpu-oom-graphs", "graphs"),
    ("vllm", "in execute_model", "gpu-oom-request", "request"),
    ("sglang", "in load_model", "gpu-oom-weights", "load"),
    ("sglang", "in alloc_memory_pool", "gpu-oom-kv", "kv_cache"),
    ("sglang", "in __init__\n    self.req_to_token = torch.zeros(", "gpu-oom-tables", "kv_cache"),
    ("sglang", 'in init_cuda_graph_state\n    "local_block_table": torch.zeros(', "gpu-oom-graphs", "graphs"),
    ("sglang", "in event_loop_overlap", "gpu-oom-request", "request"),
]


@pytest.mark.parametrize(("name", "place", "kind", "phase"), PLACES)
def test_an_out_of_memory_is_named_after_the_place_it_happened_in(name, place, kind, phase):
    text = f'Traceback (most recent call last):\n  File "a.py", line 1, {place}\n{FAILURES[0][1]}\n'
    found = diagnose(of(name, text), Evidence(exit_code=137))
    assert (found.kind, found.phase, found.signature) == (kind, phase, "gpu-out-of-memory")


@pytest.mark.parametrize("between", ["", "Traceback (most recent call last):\n"])
def test_the_place_of_an_earlier_traceback_is_forgotten(between):
    caught = 'Traceback (most recent call last):\n  File "a.py", line 1, in capture_model\nValueError: caught\n'
    found = of("vllm", f"{caught}{between}{FAILURES[0][1]}\n").failure
    assert found is not None
    assert found.kind == "gpu-oom"


def test_a_signature_of_another_version_does_not_fire():
    line = next(line for _, line, signature, *_ in FAILURES if signature == "weights-do-not-fit")
    assert of("vllm", line, "0.12.0").failure is None
    assert of("vllm", line, "0.33.0").failure is not None
    assert of("vllm", line).failure is not None
    assert of("vllm", f"█  version 0.12.0\n{line}", "0.33.0").failure is None


DIED = "Worker proc VllmWorker-2 died unexpectedly, shutting down executor.\n"
SIGKILLED = DIED.replace("unexpectedly", "unexpectedly (exit code: -9)")
VICTIM = "kernel log: Out of memory: Killed process 7 (VLLM::Worker_TP), anon-rss:82837504kB"
COUNTED = "/proc/vmstat: 1 more out-of-memory kills on this host since the start"


ASKED = """\
(EngineCore pid=9623) INFO 11-30 11:52:34 [core.py:1454] [shutdown] EngineCore: trigger received signal=SIGTERM
(EngineCore pid=9623) ERROR 11-30 11:52:34 [core.py:1510] EngineCore failed to start.
(EngineCore pid=9623) ERROR 11-30 11:52:34 [core.py:1510] Exception: WorkerProc initialization failed due to an exception in a background process.
"""


def core(number):
    """The end of an engine's core process by a signal, as a supervisor sees it."""
    return ProcessEnd(7, "VLLM::EngineCor", number)


ENDINGS = [
    ("", Evidence(137), "unknown", "unknown"),
    ("", Evidence(-9), "unknown", "unknown"),
    ("", Evidence(137, memory_kills=()), "killed", "likely"),
    ("", Evidence(0, memory_kills=(), process_ends=(core(9),)), "killed", "likely"),
    ("", Evidence(0, process_ends=(core(9),)), "unknown", "unknown"),  # nothing tells whether memory ran out
    ("", Evidence(0, memory_kills=(VICTIM,), process_ends=(core(9),)), "host-oom", "certain"),
    ("", Evidence(0, memory_kills=(), process_ends=(core(15), core(11))), "unknown", "unknown"),
    ("", Evidence(1, memory_kills=(), process_ends=(core(15),)), "unknown", "unknown"),  # its parent's own request
    ("", Evidence(137, memory_kills=(VICTIM,), killed_gib=79.0), "host-oom", "certain"),
    ("", Evidence(137, memory_kills=(COUNTED,)), "host-oom", "likely"),
    ("", Evidence(137, oom_killed=True), "host-oom", "certain"),
    ("", Evidence(137, oom_killed=False), "unknown", "unknown"),
    ("WorkerProc failed to start.\n", Evidence(oom_killed=True), "host-oom", "certain"),
    ("", Evidence(143), "killed", "certain"),
    ("", Evidence(132), "unknown", "unknown"),  # SIGILL
    ("", Evidence(135), "unknown", "unknown"),  # SIGBUS
    ("", Evidence(139), "unknown", "unknown"),  # SIGSEGV
    ("", Evidence(134), "unknown", "unknown"),  # SIGABRT may be raised for anything
    ("", Evidence(136), "unknown", "unknown"),  # SIGFPE
    ("", Evidence(1), "unknown", "unknown"),
    ("", Evidence(128), "unknown", "unknown"),
    ("", Evidence(255), "unknown", "unknown"),
    ("", Evidence(1, memory_kills=(VICTIM,)), "unknown", "unknown"),
    (DIED, Evidence(1), "unknown", "unknown"),
    (DIED, Evidence(1, memory_kills=()), "unknown", "unknown"),
    (DIED, Evidence(0, memory_kills=(), process_ends=(core(9),)), "killed", "likely"),
    (DIED, Evidence(0, memory_kills=(), process_ends=(core(11),)), "unknown", "unknown"),
    (DIED, Evidence(1, memory_kills=(VICTIM,)), "host-oom", "certain"),
    (SIGKILLED, Evidence(1), "unknown", "unknown"),
    (SIGKILLED, Evidence(1, memory_kills=()), "killed", "likely"),
    (SIGKILLED, Evidence(143), "unknown", "unknown"),  # the child ended first, and the other processes were then terminated
    (SIGKILLED, Evidence(1, memory_kills=(VICTIM,)), "host-oom", "certain"),
    (f"Traceback (most recent call last):\nFooError: x\n{DIED}", Evidence(137, memory_kills=(COUNTED,)), "unknown", "unknown"),
    ("Traceback (most recent call last):\nFooError: x\n", Evidence(137), "unknown", "unknown"),
    (f'Traceback (most recent call last):\n  File "a.py", line 1\n{DIED}', Evidence(1), "unknown", "unknown"),
    (f"ERROR FooError\n{SIGKILLED}", Evidence(1), "unknown", "unknown"),
    # The core of vLLM logs that it was asked to end after its parent was killed, and an error after it.
    (ASKED, Evidence(137, memory_kills=()), "killed", "likely"),
    (ASKED, Evidence(137, memory_kills=(VICTIM,), killed_gib=79.0), "host-oom", "certain"),
    # Its supervisor has not ended yet: it ends what is left.
    (ASKED, Evidence(memory_kills=(VICTIM,), killed_gib=79.0, process_ends=(core(9),)), "host-oom", "certain"),
    (ASKED, Evidence(memory_kills=(), process_ends=(core(9),)), "killed", "likely"),
    # After an error of its own, SGLang ends itself and all its children in this way.
    (f"ERROR FooError\n{SIGKILLED}", Evidence(137, memory_kills=(), process_ends=(core(9),)), "unknown", "unknown"),
    (f"{FAILURES[0][1]}\n{DIED}", Evidence(137, oom_killed=True), "gpu-oom", "certain"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "evidence", "kind", "confidence"), ENDINGS)
def test_how_a_server_ended_is_joined_with_its_log(text, evidence, kind, confidence):
    found = diagnose(of("vllm", text), evidence)
    assert (found.kind, found.confidence) == (kind, confidence)
    limited = "container-memory-limit" if kind == "host-oom" and evidence.oom_killed else None
    died = "worker-died" if "died" in text else "engine-failed" if text == ASKED else None
    assert found.signature == ("gpu-out-of-memory" if kind == "gpu-oom" else limited or died)
    for line in evidence.memory_kills or ():
        assert (line in found.evidence) is (kind == "host-oom")
    if evidence.killed_gib:
        assert found.sizes == {"killed_gib": evidence.killed_gib}


def test_what_cannot_be_read_is_said_to_be_unread():
    assert "cannot be read" in diagnose(of("vllm", ""), Evidence(137)).evidence[-1]
    assert "counted no" in diagnose(of("vllm", ""), Evidence(137, memory_kills=())).evidence[-1]


def test_silence_is_no_evidence_of_host_memory():
    found = diagnose(of("vllm", ""), Evidence(137))
    assert found.cause == "unknown: ended by SIGKILL, no cause in the log"
    assert "memory.events" in found.doubt


def test_a_kill_that_the_kernel_did_not_count_came_from_outside():
    whole = diagnose(of("vllm", ""), Evidence(137, memory_kills=()))
    assert whole.cause == "it was ended by SIGKILL, from outside"
    assert "systemd-oomd" in whole.doubt
    part = diagnose(of("vllm", DIED), Evidence(0, memory_kills=(), process_ends=(core(9),)))
    assert part.cause == "one of its processes was ended by SIGKILL, from outside"
    assert "process 7 (VLLM::EngineCor) was ended by SIGKILL" in part.evidence
    crashed = diagnose(of("vllm", DIED), Evidence(0, memory_kills=(), process_ends=(core(11),)))
    assert crashed.cause == "unknown: ended by SIGSEGV, no cause in the log"


NOTICE = f"{BENIGN[2][1]}\n"
TIMEOUTS = [
    ("", {}, "hang", "hangs"),
    (NOTICE * 2, {}, "hang", "hangs"),
    (NOTICE * 3, {}, "hang-workers", "hangs"),
    (NOTICE * 3, {"running": 0.0, "waiting": 2.0}, "hang-admission", "is not admitted"),
    ("", {"running": 1.0, "waiting": 2.0}, "hang", "hangs"),
    ("", {"running": 0.0, "waiting": 0.0}, "hang", "hangs"),
    ("", {"running": None, "waiting": 2.0}, "hang", "hangs"),
]


@pytest.mark.parametrize(("text", "gauges", "kind", "outcome"), TIMEOUTS)
def test_a_timeout_is_told_by_notices_and_gauges(text, gauges, kind, outcome):
    found = diagnose(of("vllm", text), Evidence(waited_for="health (no answer)", gauges=gauges))
    assert (found.kind, found.outcome) == (kind, outcome)
    assert found.cause == "the time was up while waiting for health (no answer)"


REFUSED = [
    (400, REFUSALS[0][1], "over-length"),
    (400, "something else", "unknown"),
    (413, "<html>Request Entity Too Large</html>", "proxy"),
    (502, "<html>Bad Gateway</html>", "proxy"),
    (504, "<html>Gateway Time-out</html>", "proxy"),
]


@pytest.mark.parametrize(("status", "text", "kind"), REFUSED)
def test_a_refused_token_is_a_refusal(status, text, kind):
    found = diagnose(of("vllm", ""), Evidence(status=status, refusal=text))
    assert (found.kind, found.outcome, found.phase) == (kind, "refuses", "request")
    assert text in found.cause


UNRELATED = """
json.loads("{")
int("twelve")
{}["absent"]
[][3]
1 / 0
"a" + 1
None.absent
open("/no/such/file")
zlib.decompress(b"junk")
struct.unpack("I", b"1")
decimal.Decimal("x")
xml.etree.ElementTree.fromstring("<")
configparser.ConfigParser().get("a", "b")
subprocess.run(["false"], check=True)
re.compile("(")
base64.b64decode("a", validate=True)
queue.Queue().get_nowait()
sqlite3.connect("/")
b"\\xff".decode()
next(iter(()))
""".strip().splitlines()
"""Twenty errors of Python and its library that are in no engine's catalogue."""


def raised() -> list[tuple[str, str]]:
    """Return the last message of each error, and its traceback."""
    names = {
        name: importlib.import_module(name)
        for name in ("json", "zlib", "struct", "decimal", "xml", "configparser", "subprocess")
    }
    names |= {
        name: importlib.import_module(name) for name in ("re", "base64", "queue", "sqlite3", "xml.etree.ElementTree")
    }
    found = []
    for code in UNRELATED:
        try:
            eval(code, dict(names))
        except Exception as problem:  # noqa: BLE001
            found.append((traceback.format_exception_only(problem)[-1].strip(), traceback.format_exc()))
    return found


UNKNOWN = raised()
NOISE = [line for _, line in BENIGN] + [
    "INFO:     Uvicorn running on http://localhost:8000",
    "nanobind: leaked 514 functions!",
    "\x1b[31mred\x1b[0m",
    "",
]
PREFIXES = ["", "(EngineCore pid=7) ERROR 11-20 23:36:44 [core.py:1231] ", "(Worker_TP3 pid=9) "]


def test_there_are_twenty_different_errors():
    assert len({last.partition(":")[0] for last, _ in UNKNOWN}) >= 17
    assert len(UNKNOWN) == 20


@pytest.mark.parametrize("name", ["vllm", "sglang", "vllm-neuron"])
@pytest.mark.parametrize("seed", range(20))
def test_an_error_nobody_knows_is_unknown_and_the_first_is_quoted(name, seed):
    dice = random.Random(seed)
    shuffled = dice.sample(UNKNOWN, len(UNKNOWN))
    lines: list[str] = []
    known = [line for owner, line in BENIGN if owner == name]
    for _, text in shuffled:
        prefix = dice.choice(PREFIXES)
        for line in text.splitlines():
            lines += dice.sample([*known, *NOISE[-4:]], dice.choice([0, 0, 1]))
            lines.append(prefix + line)
    reading = of(name, "\n".join(lines))
    found = diagnose(reading, Evidence(exit_code=1))
    assert reading.failure is None
    assert (found.kind, found.signature, found.confidence) == ("unknown", None, "unknown")
    assert found.cause == f"the process exited with code 1; unknown, here is the first error: {shuffled[0][0]}"


def said_by(code: str) -> str:
    """Return the output of Python when it runs *code*."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


def test_the_first_of_chained_errors_is_quoted_and_a_group_is_one():
    chained = said_by("try:\n 1 / 0\nexcept Exception as e:\n raise RuntimeError('what came of it') from e")
    assert of("vllm", chained).errors.text == "ZeroDivisionError: division by zero"
    group = said_by("raise ExceptionGroup('several', [ValueError('one')])")
    assert of("vllm", group).errors.text == "ExceptionGroup: several (1 sub-exception)"


def test_what_another_process_says_meanwhile_does_not_end_a_traceback():
    one, other = "(Worker_TP0 pid=1) ", "(Worker_TP1 pid=2) "
    text = f"{one}Traceback (most recent call last):\n{other}Other: words\n{one}  File 'a.py', line 1\n{one}KeyError: 'mine'\n"
    assert of("vllm", text).errors.text == "KeyError: 'mine'"


def test_without_a_traceback_the_first_complaint_is_quoted():
    found = diagnose(
        of("vllm", "INFO all is well\nERROR 01-02 the disk is on fire\nERROR later\n"), Evidence(exit_code=1)
    )
    assert found.cause.endswith("here is the first error: ERROR 01-02 the disk is on fire")


def test_a_traceback_says_more_than_a_complaint_before_it():
    text = "ERROR 01-02 something went wrong\nTraceback (most recent call last):\nKeyError: 'this'\n"
    assert diagnose(of("vllm", text), Evidence(exit_code=1)).cause.endswith("here is the first error: KeyError: 'this'")


def test_a_diagnosis_says_its_class_phase_and_sizes():
    found = diagnose(log("vllm-0.32.0-cpu-10m-kv-too-small"), Evidence(exit_code=1))
    rows = [f"{word} {text}" for word, text in found.rows()]
    assert (
        rows[0] == "class kv-cache-too-small (kv-cache-too-small) in phase kv_cache (allocating the KV cache), certain"
    )
    assert "kv_needed_gib 2.39 GiB" in rows[1]
    seen = found.observe({"boot_s": None, "kv_available_gib": 7.0})
    assert (seen.kind, seen.phase, seen.signature) == ("kv-cache-too-small", "kv_cache", "kv-cache-too-small")
    assert seen.metrics.items() >= {"boot_s": None, "kv_available_gib": 1.0}.items()


EVIDENCE = st.builds(
    Evidence,
    exit_code=st.none() | st.integers(-300, 300),
    oom_killed=st.none() | st.booleans(),
    memory_kills=st.none() | st.lists(st.text(), max_size=2).map(tuple),
    process_ends=st.lists(st.builds(ProcessEnd, st.integers(1), st.text(), st.integers(1, 127)), max_size=2).map(tuple),
    status=st.none() | st.integers(100, 599),
    refusal=st.none() | st.text() | st.sampled_from([text for _, text, *_ in REFUSALS]),
    waited_for=st.none() | st.text(),
    gauges=st.dictionaries(st.sampled_from(["running", "waiting"]), st.none() | st.floats(0, 9)),
)
TELLING = st.sampled_from([line for _, line, *_ in FAILURES] + NOISE + [text for _, text in UNKNOWN])


@given(st.lists(TELLING | st.text()).map("\n".join), EVIDENCE, st.sampled_from(["vllm", "sglang", "vllm-neuron"]))
def test_whatever_was_seen_has_a_diagnosis(text, evidence, name):
    found = diagnose(read([text.encode("utf-8", "replace")], backend(name).catalogue), evidence)
    assert isinstance(found, Diagnosis)
    assert found.kind in KINDS
    assert found.phase in PHASES
    assert set(found.sizes) <= set(MEASURES)
    assert found.cause
    assert found.remedy
    assert all(isinstance(line, str) for _, line in found.rows())


FAILED_REQUEST = """\
[2026-11-28 14:57:05] INFO:     Application startup complete.
[2026-11-28 14:57:07] The server is fired up and ready to roll!
[2026-11-28 14:57:09] Error in request: 'text'
Traceback (most recent call last):
  File "site-packages/sglang/srt/entrypoints/openai/serving_completions.py", line 506, in _build_completion_response
    text = ret_item["text"]
KeyError: 'text'
[2026-11-28 14:57:09] INFO:     127.0.0.1:57032 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error
"""


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (FAILED_REQUEST, "it came up, and answers every request with HTTP 500: 'text'; its log: KeyError: 'text'"),
        ("", "it came up, and answers every request with HTTP 500: 'text'"),
    ],
)
def test_one_error_for_every_request_is_said_with_the_logs_exception(log, message):
    found = diagnose(read([log.encode()], load(BACKENDS["sglang"])().catalogue), Evidence(status=500, refusal="'text'"))
    assert (found.kind, found.outcome, found.phase, found.cause) == ("server-error", "fails", "request", message)


def test_a_boot_that_was_at_work_is_no_hang_and_one_that_stalled_says_for_how_long():
    waiting = "health (no answer)"
    reading = read([b""], load(BACKENDS["vllm"])().catalogue)
    slow = diagnose(reading, Evidence(waited_for=waiting, at_work="too slow here: not ready within 5 s"))
    assert (slow.outcome, slow.kind) == (None, "too-slow")
    assert slow.cause == "too slow here: not ready within 5 s; waiting for health (no answer)"
    stalled = diagnose(reading, Evidence(waited_for=waiting, stalled="nothing moved for 600 s"))
    assert (stalled.outcome, stalled.kind) == ("hangs", "hang")
    assert stalled.cause == "nothing moved for 600 s while waiting for health (no answer)"
