"""The last good boot of a deployment is kept, and a failed boot is compared with it."""

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.good_boots import GoodBoots, differences
from pytest_longctx.diagnosis.log_file import read

KNOWN = catalogues()["vllm"]
PREFIX = "(EngineCore pid=7) INFO 11-21 10:11:40 [core.py:1] "
GOOD = """\
INFO 11-21 10:11:40 [api_server.py:1] vLLM API server version 0.25.1
INFO 11-21 10:11:40 [utils.py:1] non-default args: {'model': 'm', 'port': 8001, 'gpu_memory_utilization': 0.95}
(EngineCore pid=7) INFO 11-21 10:11:55 [gpu_model_runner.py:1] Model loading took 4.20 GiB memory and 9.1 seconds
(EngineCore pid=7) INFO 11-21 10:11:55 [kv_cache_utils.py:2146] GPU KV cache size: 1,000,000 tokens
INFO:     Application startup complete.
"""
BAD = GOOD.replace("0.25.1", "0.26.0").replace("0.95}", "0.5, 'max_num_seqs': 4}").replace("8001", "8002")
BAD = (
    BAD.replace("9.1 seconds", "31 seconds")
    .replace("1,000,000", "10,000")
    .replace("INFO:     Application startup complete.\n", "")
)
BAD += f"{PREFIX}Using a fallback\n"


def compared(bad, good):
    mine, theirs = (read([text.encode()], KNOWN) for text in (bad, good))
    return list(differences(mine, theirs, bad.splitlines(keepends=True), good.splitlines(keepends=True)))


def test_arguments_versions_sizes_and_phases_that_differ_are_named():
    assert compared(BAD, GOOD) == [
        "argument gpu_memory_utilization: 0.5; good boot: 0.95",
        "argument max_num_seqs: 4; good boot: (not given)",
        "engine_version: 0.26.0; good boot: 0.25.1",
        "kv_cache_tokens: 10000; good boot: 1e+06",
        "phase reached: kv_cache; good boot: serve",
        "line only in this log: Using a fallback",
    ]


def test_two_boots_that_differ_in_times_and_ports_do_not_differ():
    again = GOOD.replace("10:11", "23:40").replace("8001", "8009").replace("9.1 seconds", "1.1 seconds")
    assert compared(again, GOOD) == []
    assert compared(again.replace("1,000,000", "1,000,100"), GOOD) == []


def test_the_last_good_log_is_kept_without_secrets(tmp_path):
    boots = GoodBoots(tmp_path / "not" / "there")
    for text in ("older\n", f"api key hunter22\n{GOOD}"):
        (tmp_path / "a.log").write_text(text, encoding="utf-8")
        boots.keep(tmp_path / "a.log", "vllm", "a", ("hunter22",))
    kept = boots.path("vllm", "a").read_text(encoding="utf-8")
    assert kept.endswith(GOOD)
    assert "hunter22" not in kept
    assert len(list(boots.folder.iterdir())) == 1
    (tmp_path / "b.log").write_text(BAD, encoding="utf-8")
    bad = read([BAD.encode()], KNOWN)
    assert (
        boots.compared(bad, tmp_path / "b.log", "vllm", "a")[0]
        == "argument gpu_memory_utilization: 0.5; good boot: 0.95"
    )
    assert boots.compared(bad, tmp_path / "b.log", "vllm", "b") == []


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "a.log").write_text(GOOD, encoding="utf-8")
    GoodBoots(tmp_path / "file").keep(tmp_path / "a.log", "vllm", "a")
    assert (tmp_path / "file").read_text(encoding="utf-8") == ""
