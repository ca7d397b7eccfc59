"""One line of a log as a record, whoever has put something before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.diagnosis.parsing.records import ERROR, INFO, WARNING, parse, records

LINES = [
    ("(EngineCore pid=70) ERROR 11-21 10:14:30 [core.py:1231] it failed", (ERROR, "core.py:1231", "EngineCore pid=70", "it failed")),
    ("ERROR 04-09 05:39:54 core.py:390] it failed", (ERROR, "core.py:390", "", "it failed")),
    ("(Worker pid=1) (Worker_TP3 pid=1) INFO 03-05 09:56:09 [a/b.py:1] x", (INFO, "a/b.py:1", "Worker pid=1 Worker_TP3 pid=1", "x")),
    ("(VllmWorker rank=0 pid=247) INFO 07-02 11:00:02 [factory.py:74] x", (INFO, "factory.py:74", "VllmWorker rank=0 pid=247", "x")),
    ("INFO:     Application startup complete.", (INFO, "", "", "Application startup complete.")),
    ("[2026-11-24 20:00:00 DP0 TP1] Load weight begin.", (None, "", "", "Load weight begin.")),
    ("[2025-07-02 11:00:02,560] LMCache INFO: made (a.py:89:b)", (INFO, "", "", "made (a.py:89:b)")),
    ("E0917 16:23:12.881234 20611 worker_pool.cpp:281] Worker: failed", (ERROR, "worker_pool.cpp:281", "", "Worker: failed")),
    ("[rank4]:[E226 11:16:37.1 ProcessGroupNCCL.cpp:616] [Rank 4] x", (ERROR, "ProcessGroupNCCL.cpp:616", "rank4", "[Rank 4] x")),
    ("0.18.542.875 E alloc: failed", (ERROR, "", "", "alloc: failed")),
    ("[TensorRT-LLM][WARNING] x", (WARNING, "", "", "x")),
    ("[07/08/2025-19:47:15] [TRT-LLM] [RANK 1] [E] x", (ERROR, "", "", "x")),
    ("[TM][WARN][0820 10:20:00.000001][engine.cc:605] x", (WARNING, "", "", "x")),
    ("2024-05-08 16:16:10,360 - lmdeploy - ERROR - engine.py:1003 - x", (ERROR, "engine.py:1003", "", "x")),
    ("2024-07-16T09:11:13.5Z ERROR shard-manager: text_generation_launcher: Shard 0", (ERROR, "shard-manager: text_generation_launcher", "", "Shard 0")),
    ("2026-07-01 10:00:20.410 | ERROR    | sglang.srt.x:run:3101 - x", (ERROR, "sglang.srt.x:run:3101", "", "x")),
    ("decode-0:3663:4044 [0] misc/shmutils.cc:129 NCCL WARN x", (WARNING, "decode-0", "", "x")),
    ("2025-Feb-11 14:20:31.0412    41:41    ERROR  TDRV:dmem_alloc   x", (ERROR, "TDRV:dmem_alloc", "", "x")),
    ('  File "a.py", line 1, in b', (None, "", "", '  File "a.py", line 1, in b')),
    (" ERROR 03-12 02:59:39 [core.py:1098]   File", (ERROR, "core.py:1098", "", "  File")),
    ("2023/10/15 13:23:35 llama.go:384: it stopped", (None, "llama.go:384", "", "it stopped")),
    ('E0625 06:12:20.148931 1 backend_model.cc:691] "ERROR: it failed: (x.cpp:77)', (ERROR, "backend_model.cc:691", "", "it failed: (x.cpp:77)")),
    ("| tensorrt_llm   | 1       | UNAVAILABLE: Internal: it failed  |", (None, "", "", "UNAVAILABLE: Internal: it failed")),
    ("|                |         | size == tp (x.cpp:80)             |", (None, "", "", "size == tp (x.cpp:80)")),
    ("| Model          | Version | Status                            |", (None, "", "", "| Model          | Version | Status                            |")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), LINES)
def test_each_format_is_read(line, said):
    found = parse(line)
    assert (found.level, found.where, found.process, found.text) == said


@pytest.mark.parametrize(
    "prefix", ["[pod/a/b] ", "2026-09-01T14:03:07.1Z ", "Aug 19 18:34:27 host vllm[8727]: ", "llm-1  | "]
)
@pytest.mark.parametrize("text", ['  File "a.py", line 1, in b', "    x = 1", "KeyError: 'x'", ""])
def test_a_prefix_leaves_the_indentation(prefix, text):
    assert parse(prefix + text).text == text


@pytest.mark.parametrize("escape", ["#033[", "^[[", r"\x1b[", r"\033[", r"\e[", "\x1b["])
def test_colours_that_a_collector_spelled_out_are_removed(escape):
    line = f"{escape}2m2024-04-18T22:45:20.4Z{escape}0m {escape}31mERROR{escape}0m {escape}2mtext_generation_launcher{escape}0m{escape}2m:{escape}0m Webserver Crashed"
    found = parse(line)
    assert (found.level, found.text) == (ERROR, "Webserver Crashed")
    assert [each.text for each in records(line)] == ["Webserver Crashed"]


@pytest.mark.parametrize("text", ["shape [0m] of x", "the pattern ^[a-z", r"C:\e[", "#033"])
def test_what_only_resembles_a_colour_stays(text):
    assert parse(text).text == text


def test_a_message_of_several_lines_in_one_json_line_is_several_records():
    line = '{"level": "ERROR", "logger": "vllm.core", "message": "It failed.\\nTraceback (most recent call last):\\nKeyError: 1"}'
    assert [(each.level, each.text) for each in records(line)] == [
        (ERROR, "It failed."),
        (ERROR, "Traceback (most recent call last):"),
        (ERROR, "KeyError: 1"),
    ]


def test_the_level_of_a_relay_is_not_that_of_what_it_relays():
    assert [each.level for each in records('{"level": "info", "message": "KeyError: 1"}')] == [None]
    assert parse("2026-07-01 10:00:20.410 | INFO     | __main__:relay:12 - KeyError: 1").level is None


def test_an_engines_message_may_begin_like_a_prefix():
    found = parse("INFO 11-21 10:11:30 [b.py:53] ERROR 11-21 10:11:30 [c.py:1] it failed")
    assert (found.level, found.where) == (INFO, "b.py:53")


@given(
    st.text()
    | st.lists(
        st.sampled_from(["[", "]", "(", ")", "2026-01-01", " ", "INFO", ":", "pid=1", "|", "{", "}", '"log":"x"'])
    ).map("".join)
)
def test_any_text_is_a_record(line):
    for found in records(line):
        assert found.text in found.line or found.line
