"""`longctx diagnose`: what it reads, what it says, and its exit status."""

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_longctx import cli

ROOT = Path(__file__).parents[3]
LOGS = ROOT / "tests" / "data" / "logs"
CORPUS = ROOT / "tests" / "data" / "diagnosis" / "developed"
FAILED = CORPUS / "vllm-mamba-blocks-033.log"
SERVED = LOGS / "vllm-0.32.0-cpu-64k-serving.log"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["diagnose", *map(str, arguments)])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_a_failed_boot_has_its_class_sizes_rank_line_and_remedy(capsys):
    status, out, _ = run(capsys, FAILED)
    assert status == 1
    assert "vllm 0.33.0: failed" in out
    assert "class    mamba-blocks (mamba-blocks) in phase graphs" in out
    assert "sizes    max_num_seqs 256 requests, mamba_blocks 181 blocks" in out
    assert "where    Worker_TP0 pid=91" in out
    assert "try      --max-num-seqs" in out


def test_a_server_that_was_well_is_no_failure(capsys):
    status, out, _ = run(capsys, SERVED)
    assert (status, "booted, served and was stopped" in out) == (0, True)


def test_what_is_not_understood_shows_the_first_error_with_its_context(capsys, tmp_path):
    log = tmp_path / "a.log"
    log.write_text(
        "(EngineCore pid=7) ERROR 11-21 10:14:30 [core.py:1231] EngineCore failed to start.\n"
        "(EngineCore pid=7) Traceback (most recent call last):\n"
        '(EngineCore pid=7)   File "/x/vllm/odd.py", line 6, in strange\n'
        "(EngineCore pid=7) KeyError: 'nobody knows this'\n"
    )
    status, out, _ = run(capsys, log)
    assert status == 1
    assert "unknown, here is the first error: KeyError: 'nobody knows this'" in out
    assert 'context  (EngineCore pid=7)   File "/x/vllm/odd.py"' in out or 'context    File "/x/vllm/odd.py"' in out


def test_several_logs_gzip_and_standard_input(capsys, tmp_path, monkeypatch):
    packed = tmp_path / "a.log.gz"
    packed.write_bytes(gzip.compress(FAILED.read_bytes()))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(SERVED.read_bytes())))
    status, out, _ = run(capsys, packed, "-", "--json")
    rows = json.loads(out)
    assert status == 1
    assert [(row["state"], row["class"]) for row in rows] == [("failed", "mamba-blocks"), ("stopped", None)]
    assert rows[0]["sizes"] == {"max_num_seqs": 256.0, "mamba_blocks": 181.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "the log is empty"),
        (b"\x7fELF\0\0", "must be a text file"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_and_has_a_status_of_its_own(capsys, tmp_path, content, said):
    log = tmp_path / "a.log"
    if content is not None:
        log.write_bytes(content)
    status, out, err = run(capsys, log)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_an_engine_that_is_not_known_is_refused_with_the_nearest(capsys):
    status, _, err = run(capsys, FAILED, "--engine", "vlm")
    assert (status, "vllm" in err) == (2, True)


@pytest.mark.parametrize(
    ("given", "kind"),
    [(["--exit-code", "137"], "unknown"), (["--exit-code", "139"], "unknown"), (["--oom-killed", "true"], "host-oom")],
)
def test_how_it_ended_is_evidence(capsys, tmp_path, given, kind):
    log = tmp_path / "a.log"
    log.write_text("(EngineCore pid=7) INFO 11-21 10:12:00 [gpu_model_runner.py:1] Starting to load model /m...\n")
    status, out, _ = run(capsys, log, *given)
    assert (status, f"class    {kind}" in out) == (1, True)


def test_lines_of_the_kernel_in_the_same_text_are_evidence(capsys):
    status, out, _ = run(capsys, CORPUS / "vllm-lmcache-8-ranks-x-512-gb-kernel-says-oom.log")
    assert (status, "class    host-oom" in out, "Killed process 3117" in out) == (1, True, True)


def test_a_failed_boot_is_compared_with_a_good_one(capsys, tmp_path):
    good, bad = tmp_path / "good.log", tmp_path / "bad.log"
    head = "(APIServer pid=1) INFO 11-21 10:11:32 [api_utils.py:273] non-default args: {{'model': '/m', 'max_model_len': {}}}\n"
    up = "(APIServer pid=1) INFO:     Application startup complete.\n"
    good.write_text(head.format(1024) + "(EngineCore pid=7) INFO 11-21 10:12:00 [core.py:1] Loading took 3 s\n" + up)
    bad.write_text(
        head.format(2048)
        + "(EngineCore pid=7) INFO 11-21 10:12:00 [core.py:1] Loading took 4 s\n"
        + "(EngineCore pid=7) WARNING 11-21 10:12:01 [odd.py:1] Something else is going on\n"
        + "(EngineCore pid=7) ERROR 11-21 10:12:02 [core.py:1] EngineCore failed to start.\n"
    )
    status, out, _ = run(capsys, bad, "--good", good, "--engine", "vllm")
    assert status == 1
    assert "differs  argument max_model_len: 2048; good boot: 1024" in out
    assert "differs  line only in this log: Something else is going on" in out
    assert "Loading took" not in out


@pytest.mark.parametrize(
    ("log", "ids"),
    [
        ("vllm-0.32.0-cpu/boots/cpu-tiny-10m-1gib-4466.log", ["SC-0093", "VC-0002", "VC-0040"]),
        ("sglang-0.5.16-1xh200/ten-million/boots/scout12-sglang-10m-graphs-487.log", ["SG-0008", "SG-0010"]),
        ("vllm-0.25.1-1xh200/boots/h200x1-probe-vllm-10m.log", []),
    ],
)
def test_findings_that_document_the_same_failure_are_named(capsys, log, ids):
    (row,) = json.loads(run(capsys, ROOT / "docs" / "results" / log, "--json")[1])
    assert row["alike"] == ids
    assert bool(row["source"]) is bool(ids)


def test_another_engines_finding_is_not_named(tmp_path, capsys):
    """Its signature may have the same name."""
    log = tmp_path / "a.log"
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.22 GiB. GPU 0 has a total capacity of 139.80 GiB"
    log.write_text(f"Traceback (most recent call last):\n{line}\n", encoding="utf-8")
    for engine, wanted in (("sglang", {"SC", "SG"}), ("vllm-neuron", set())):
        (row,) = json.loads(run(capsys, log, "--engine", engine, "--json")[1])
        assert {name[:2] for name in row["alike"]} == wanted
