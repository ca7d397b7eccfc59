"""Labelled logs of public reports and of our own boots: a claimed cause is right, and no healthy boot is called failed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.diagnosis.diagnose import assess
from tests.unit.diagnosis.corpus import CATALOGUES, FOLDER, Labelled, labelled, score

THIRD = FOLDER.parent / "third"
FOURTH = FOLDER.parent / "fourth"
"""Both were scored blind once, and developed with since."""
LOGS = list(labelled())
FAILING = [each for each in LOGS if not each.healthy]


def ids(logs):
    return [pytest.param(each, id=each.name.removesuffix(".log").rpartition("/")[2]) for each in logs]


def test_the_corpus_is_large_and_of_many_engines():
    assert len(FAILING) >= 150
    assert len(LOGS) - len(FAILING) >= 40


@pytest.mark.parametrize("log", ids([each for each in (*LOGS, *labelled(THIRD), *labelled(FOURTH)) if each.healthy]))
def test_a_healthy_boot_is_never_called_failed(log):
    reading = log.read()
    state, found = assess(reading, log.ended)
    assert (state in ("healthy", "stopped", "unfinished"), found) == (True, None)
    assert not reading.fatal  # and no wait would have ended for it


@pytest.mark.parametrize(
    "log", ids([each for each in (*LOGS, *labelled(THIRD), *labelled(FOURTH)) if each.now == "unknown"])
)
def test_where_the_log_has_no_cause_none_is_claimed(log):
    found = assess(log.read(), log.ended)[1]
    assert found is None or found.kind == "unknown"


@pytest.mark.parametrize("folder", [FOLDER, THIRD, FOURTH], ids=lambda folder: folder.name)
def test_claimed_causes_are_right_and_most_failures_have_one(folder):
    counts, _, wrong = score(folder)
    assert counts["healthy called failed"] == 0, wrong
    assert counts["right"] >= 0.97 * counts["claims"], wrong
    assert counts["right"] >= 0.85 * counts["failures with a cause"], wrong


PREFIXES = {
    "docker": "2026-09-01T14:03:07.123456789Z {}",
    "cri": "2026-09-01T14:03:07.123456789Z stderr F {}",
    "kubectl": "[pod/llm-0/main] {}",
    "kubectl with times": "[pod/llm-0/main] 2026-09-01T14:03:07.123456789Z {}",
    "journald": "Aug 19 18:34:27 host vllm[8727]: {}",
    "journald iso": "2026-08-19T18:34:27+0000 host vllm[8727]: {}",
    "syslog": "<6>Aug 19 18:34:27 host vllm[8727]: {}",
    "compose": "llm-1  | {}",
    "loguru": "2026-07-01 10:00:20.410 | INFO     | __main__:relay:12 - {}",
    "logging": "2024-05-08 16:16:10,360 - relay - INFO - {}",
    "lemonade": "2026-06-09 14:01:54.604 [Info] (Process) {}",
    "mpi": "[1,0]<stderr>:{}",
    "srun": "0: {}",
    "buildkite": "\x1b_bk;t=1785489648101\x07{}",
    "ray": "(RayWorkerWrapper pid=1201, ip=192.0.2.5) {}",
    "tag": "(APIServer pid=1) {}",
    "colours": "\x1b[36m{}\x1b[0m",
    "carriage return": "{}\r",
    "bracketed": "[2026-09-01T14:03:07Z] {}",
}


def as_json(line: str) -> str:
    return json.dumps({"log": f"{line}\n", "stream": "stderr", "time": "2026-09-01T14:03:07.1Z"})


def as_message(line: str) -> str:
    return json.dumps({"level": "info", "ts": "2026-09-01T14:03:07Z", "message": line}, ensure_ascii=False)


def said(log: Labelled, lines: list[str]) -> object:
    reading = log.read(known=CATALOGUES["vllm"] if "vllm" in log.name else None, text="\n".join(lines).encode())
    state, found = assess(reading, log.ended)
    return state, found and (found.kind, found.phase, found.signature, dict(found.sizes))


OWN = [each for each in LOGS if "/" not in each.name and "vllm" in each.name and each.text.endswith(b"\n")]


@pytest.mark.parametrize("form", [*PREFIXES, "json", "json message"])
def test_a_log_says_the_same_through_every_prefix(form):
    made = {"json": as_json, "json message": as_message}.get(form) or PREFIXES[form].format
    for log in OWN:
        lines = log.text.decode("utf-8", "replace").split("\n")
        if form == "json message" and any(line.startswith("{") for line in lines):
            continue
        assert said(log, [made(line) if line else line for line in lines]) == said(log, lines), log.name


STACKABLE = sorted(
    PREFIXES.keys() - {"srun", "carriage return", "tag", "ray", "logging", "loguru", "lemonade", "syslog", "compose"}
)


@given(st.lists(st.sampled_from(STACKABLE), max_size=3, unique=True), st.sampled_from(OWN))
def test_prefixes_may_stand_one_before_the_other(forms, log):
    lines = log.text.decode("utf-8", "replace").split("\n")
    changed = lines
    for form in forms:
        changed = [PREFIXES[form].format(line) if line else line for line in changed]
    assert said(log, changed) == said(log, lines)
