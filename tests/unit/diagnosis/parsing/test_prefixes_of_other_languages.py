"""The prefixes of loggers in Go, Rust and C++ that stand before an engine's own lines."""

import pytest

from pytest_longctx.diagnosis.parsing.records import ERROR, INFO, WARNING, parse

LINES = [
    ('10:04AM ERR it failed error="open /m: permission denied"', ERROR, "it failed: open /m: permission denied"),
    ("9:41PM INF it goes on", INFO, "it goes on"),
    ("9:41PM WRN it is slow", WARNING, "it is slow"),
    ("10:04AM DBG GRPC(m.gguf-127.0.0.1:42): stderr it aborts", None, "it aborts"),
    ("2026-01-02T03:04:05.678Z ERROR dynamo_llm::disagg: it failed", ERROR, "it failed"),
    ("2026-01-02T03:04:05.678Z  WARN dynamo.trtllm.handlers: it is slow", WARNING, "it is slow"),
    ("E20260102 03:04:05.678901 17 rdma_transport.cpp:3] it failed", ERROR, "it failed"),
    ("10:24:31 node-7 run.sh[163]: ERROR 04-08 16:24:34 [x.py:9] it failed", ERROR, "it failed"),
    (
        "10:24:31 node-7 run.sh[163]: node-7:158:188 [0] x/p2p.cc:651 NCCL WARN NET/IB : it failed",
        WARNING,
        "NET/IB : it failed",
    ),
]


@pytest.mark.parametrize(("line", "level", "text"), LINES)
def test_the_level_and_the_message_are_read(line, level, text):
    found = parse(line)
    assert (found.level, found.text) == (level, text)
