"""A server that fails under a request: the exact report, and how a finding can document the failure."""

import pytest

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.exchange import Usage
from pytest_longctx.client.server import Server
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.log_evidence import ProcessEnd
from pytest_longctx.errors import LaunchError
from pytest_longctx.findings.scope import Conditions
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.miniatures.death_faults import _ENGINE_DEAD
from tests.unit import factories

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3 has a total capacity of 139.80 GiB of which"
SAID = {
    "never-schedules": (
        "outcome: is not admitted, wanted serves",
        (
            "requests waited and none ran with 0.0% of the KV cache in use, and no counter moved; /health returns 200; "
            "a request of 8 tokens after it was answered in"
        ),
        "the server has recovered",
    ),
    "stays-blocked": (
        "outcome: is not admitted, wanted serves; recovered: 0, wanted exactly 1",
        "no counter moved; /health returns 200; a request of 8 tokens after it was not answered (not admitted: for",
        "the server has not recovered",
    ),
    "wedges": (
        "outcome: hangs, wanted serves; recovered: 0, wanted exactly 1",
        "); the last progress was kv usage; /health returns 200; a request of 8 tokens after it was not answered (stalled: no progress",
        "the server has not recovered",
    ),
    "engine-dies": (
        "outcome: dies, wanted serves; recovered: 0, wanted exactly 1",
        (
            "the server accepts connections, but its engine is dead; /health returns 503; "
            "a request of 8 tokens after it was not answered (engine dead: the server accepts connections, but its engine is dead"
        ),
        "the server has not recovered",
    ),
    "runs-out-under-a-request": (
        "outcome: runs out of memory, wanted serves; recovered: 0, wanted exactly 1",
        OUT_OF_MEMORY,
        "the server has not recovered",
    ),
}


@pytest.mark.parametrize("fault", SAID)
def test_it_is_said_what_became_of_the_server(run, faulty, fault, monkeypatch):
    """The complete report, which the one-line verdict cuts."""
    whole, evidence = [], Boot.evidence

    def overheard(boot, seen):
        whole.append(evidence(boot, seen))
        return whole[-1]

    monkeypatch.setattr(Boot, "evidence", overheard)
    done = run("--backend=miniature", faulty(fault), "-k", "MN-0040")
    (row,) = done.results.verdicts
    why, words, end = SAID[fault]
    assert row["why"].startswith(why)
    assert words in whole[-1].said
    assert whole[-1].said.endswith(end)


def test_a_search_that_ends_without_an_answer_says_whether_the_server_still_gives_one(run, faulty):
    """A search does not wait for the exit of a server whose health check was green."""
    done = run("--backend=miniature", faulty("resets-connection"), "-k", "LC-0023")
    (row,) = done.results.verdicts
    assert row["why"].startswith("outcome: disconnects, wanted serves")
    assert (row["measured"]["health_status"], row["measured"]["tries"]) == (200, 1)


DOCUMENTED = """
id = "XX-0001"
title = "a request that ends the server is documented"
question = "served"
markers = ["expected_oom"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[ask]
prompt_tokens = 20_000
[expect]
outcome = "runs out of memory"
phase = "request"
signature = "gpu-out-of-memory"
[bounds.allocation_gib]
unit = "GiB"
exactly = 2.5
[bounds.device_gib]
unit = "GiB"
exactly = 139.8
"""
SEEN_INSTEAD = {
    "runs-out-under-a-request": "",
    "honest": "outcome: serves, wanted runs out of memory (the finding has changed: it is served instead of gpu-out-of-memory)",
    "wedges": "outcome: hangs, wanted runs out of memory (the finding has changed: a timeout instead of gpu-out-of-memory)",
    "engine-dies": "outcome: dies, wanted runs out of memory (the finding has changed: another cause, dead-engine instead of",
}


@pytest.mark.parametrize("fault", SEEN_INSTEAD)
def test_a_documented_death_counts_only_for_its_own_cause_and_size(run, faulty, pytester, fault):
    folder = pytester.mkdir("findings")
    (folder / "XX-0001.toml").write_text(DOCUMENTED, encoding="utf-8")
    done = run("--backend=miniature", faulty(fault), "--longctx-data=.", "-k", "XX-0001")
    (row,) = done.results.verdicts
    assert row["verdict"] == ("broken" if SEEN_INSTEAD[fault] else "holds"), row["why"]
    assert row["why"].startswith(SEEN_INSTEAD[fault])


# Log of the CPU build of vLLM 0.32 after its engine was killed with SIGKILL during a prompt. The server then exited with 0.
ENGINE_LOST = """\
INFO:     Application startup complete.
INFO:     127.0.0.1:60316 - "POST /v1/completions HTTP/1.1" 200 OK
(APIServer pid=1361) INFO 11-21 12:34:39 [utils.py:628] [shutdown] Process manager: send sigterm to process EngineCore
(Worker pid=1493) INFO 11-21 12:34:39 [multiproc_executor.py:843] Parent process exited, terminating worker queues
(APIServer pid=1361) WARNING 11-21 12:34:39 [core_client.py:817] [shutdown] MPClient: engine core exited unexpectedly; starting cleanup
(APIServer pid=1361) ERROR 11-21 12:34:39 [async_llm.py:906] AsyncLLM output_handler failed.
(APIServer pid=1361) ERROR 11-21 12:34:39 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""
ASKED_TO_END = """\
INFO:     Application startup complete.
INFO:     127.0.0.1:47624 - "POST /v1/completions HTTP/1.1" 200 OK
(APIServer pid=10933) INFO 11-30 11:27:38 [launcher.py:254] [shutdown] API server: shutdown triggered
(APIServer pid=10933) INFO 11-30 11:27:38 [utils.py:628] [shutdown] Process manager: send sigterm to process EngineCore
INFO:     Shutting down
INFO:     Waiting for connections to close. (CTRL+C to force quit)
"""
WORKER_LOST = """\
INFO:     Application startup complete.
(EngineCore pid=24318) ERROR 11-21 12:48:52 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly (exit code: None), shutting down executor.
(EngineCore pid=24318) ERROR 11-21 12:48:52 [core.py:1512] EngineCore encountered a fatal error.
(EngineCore pid=24318) ERROR 11-21 12:48:52 [core.py:1512] Traceback (most recent call last):
(EngineCore pid=24318) ERROR 11-21 12:48:52 [core.py:1512] RuntimeError: cancelled
"""
FP8 = """\
INFO:     Application startup complete.
(EngineCore pid=7) ERROR 11-21 12:48:52 [core.py:1512] EngineCore encountered a fatal error.
(EngineCore pid=7) ERROR 11-21 12:48:52 [core.py:1512] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-21 12:48:52 [core.py:1512]     assert self.kv_cache_dtype in {"fp8", "fp8_e4m3"}
(EngineCore pid=7) ERROR 11-21 12:48:52 [core.py:1512] AssertionError
"""
VICTIM = "kernel log: Out of memory: Killed process 7 (VLLM::EngineCore), anon-rss:82837504kB"
DIED = factories.exchange(ending="server error", arrivals_s=(), usage=Usage(), detail="no more", health=503)
LOST = ProcessEnd(1493, "VLLM::EngineCor", 9)
ENDED = [
    (ENGINE_LOST, Evidence(0, memory_kills=()), "dies", "unknown", "worker-died", "request"),
    (ENGINE_LOST, Evidence(0, process_ends=(LOST,)), "dies", "unknown", "worker-died", "request"),
    (ENGINE_LOST, Evidence(0, memory_kills=(VICTIM,), killed_gib=79.0), "dies", "host-oom", "worker-died", "request"),
    (WORKER_LOST, Evidence(0, memory_kills=()), "dies", "unknown", "worker-died", "request"),
    (FP8, Evidence(0), "asserts", "fp8-assertion", "fp8-query-assertion", "first forward"),
    (FP8, None, "asserts", "fp8-assertion", "fp8-query-assertion", "first forward"),
    ("", Evidence(137, oom_killed=True), "runs out of memory", "host-oom", "container-memory-limit", "request"),
    ("", None, "dies", None, None, "request"),
]


def borne_out(folder, text, **more):
    """Check the diagnosis of an unanswered request to a server with *text* in its log."""
    log = folder / "server.log"
    log.write_text(text, encoding="utf-8")
    server = Server("http://there", "m", Vllm(), factories.deployment(), "process", log=log, **more)
    return Boot(Conditions(factories.deployment(), None, "0.32.0"), {}, 1.0, server).evidence(DIED)


@pytest.mark.parametrize(("text", "end", "outcome", "kind", "signature", "phase"), ENDED)
def test_a_death_under_a_request_is_joined_with_the_log(tmp_path, text, end, outcome, kind, signature, phase):
    waited = []

    def ended(wait_s):
        waited.append(wait_s)
        return end

    seen = borne_out(tmp_path, text, ended=ended)
    assert (seen.outcome, seen.kind, seen.signature, seen.phase) == (outcome, kind, signature, phase)
    assert seen.said.endswith("no more")
    assert seen.metrics.get("killed_gib") == (end and end.killed_gib)
    assert (waited[0] > 0) is bool(text)  # there is no wait for a server that answers and has an empty log


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", Evidence(137, memory_kills=())),
        ("", Evidence(143)),
        (ENGINE_LOST, Evidence(0, memory_kills=(), process_ends=(LOST,))),
        (ASKED_TO_END, Evidence(0)),
        (ASKED_TO_END, None),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGKILL of the engine's core", "in order", "in order, and not over yet"],
)
def test_a_stop_from_outside_is_no_evidence_about_the_server(tmp_path, text, end):
    with pytest.raises(LaunchError, match="was stopped while it worked, so nothing is judged") as raised:
        borne_out(tmp_path, text or "INFO:     Application startup complete.\n", ended=lambda _: end)
    how = "ended by SIGTERM" if end and end.exit_code == 143 else "ended by SIGKILL"
    assert ("shut down in order" if text == ASKED_TO_END else f"{how}, from outside") in str(raised.value)
    assert f"log      {tmp_path / 'server.log'}" in str(raised.value)


def test_what_is_quoted_of_the_log_is_masked(tmp_path):
    seen = borne_out(tmp_path, f"{OUT_OF_MEMORY} hunter22\n", hidden=("hunter22",))
    assert f"{OUT_OF_MEMORY} ***; no more" in seen.said


def test_a_miniature_says_of_its_dead_engine_what_vllm_says():
    assert _ENGINE_DEAD in next(each for each in Vllm().catalogue.signature if each.id == "engine-dead").example
