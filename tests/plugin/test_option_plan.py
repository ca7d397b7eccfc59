"""The plan of a run, from pytest and from the console, without a boot."""

import json
import re

import pytest

from pytest_longctx import cli


def rows(capsys, *arguments):
    assert cli.main(["plan", "--json", *arguments]) == 0
    return {row["deployment"]: row for row in json.loads(capsys.readouterr().out)}


def test_documented_boots_come_out_as_documented(capsys):
    found = {**rows(capsys, "--hardware", "8xH200"), **rows(capsys, "--hardware", "8xH200", "--backend", "sglang")}
    documented = {
        "scout-vllm-2m": "serves",
        "scout-vllm-5m-hybrid-off": "overcommits",
        "scout-vllm-5m-hybrid-on": "serves",
        "scout-vllm-8m-095": "runs out of memory",
        "scout-vllm-10m-fp8": "serves",
        "scout-vllm-10m-e5m2": "serves",  # it stops on an assertion, which does not depend on memory
        "scout-sglang-2m-graphs": "runs out of memory",
        "scout-sglang-10m": "runs out of memory",
        "scout-sglang-10m-few-requests": "serves",
    }
    assert {name: found[name]["prediction"]["outcome"] for name in documented} == documented
    assert not any(row["contradicts"] for row in found.values())
    assert found["scout-sglang-10m"]["prediction"]["cure"] == "--max-running-requests 8"
    assert "holds only 7,094,297 of the 9,999,993 tokens" in found["scout-sglang-10m-few-requests"]["verdict"]


def test_boots_on_a_cpu_come_out_as_they_were_logged(capsys):
    """The figures of docs/results/vllm-0.32.0-cpu, whose KV cache is given in GiB."""
    found = {
        name: row["prediction"] for name, row in rows(capsys, "--hardware", "cpu", "--backend", "vllm-cpu").items()
    }
    assert round(found["cpu-tiny-64k"]["concurrency"], 2) == 87.15
    assert round(found["cpu-tiny-10m-3gib"]["concurrency"], 2) == 1.25
    # Dtypes that the engine supports as quantised use one byte, all others two.
    dtypes = {"cpu-probe-e4m3": 59.25, "cpu-kv-nvfp4": 59.25, "cpu-kv-int4-per-token-head": 59.25}
    dtypes |= {"cpu-kv-auto": 29.63, "cpu-kv-turboquant-4bit-nc": 29.63}
    assert {name: round(found[name]["concurrency"], 2) for name in dtypes} == dtypes
    refused = found["cpu-tiny-10m-1gib"]
    assert (refused["outcome"], refused["longest_tokens"]) == ("refuses", 4_163_456)
    assert round(refused["culprit"]["size_bytes"] / 2**30, 2) == 2.39


def test_a_machine_that_is_too_small_is_told_what_is_needed(capsys):
    found = rows(capsys, "--hardware", "1xH200")
    assert found["scout-vllm-2m"]["verdict"] == "out of scope: needs 8xH200, this machine has 1xH200"
    assert found["scout-vllm-2m"]["gpu_hours"] is None


@pytest.mark.parametrize(
    ("hardware", "needs"), [("8xH100", "1xH100"), ("2x46GiB", "1x46GiB"), ("1xRTX4090", "1xRTX4090")]
)
@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_a_machine_that_no_file_names_judges_the_laws_on_one_gpu(capsys, hardware, needs, backend):
    found = rows(capsys, "--hardware", hardware, "--backend", backend)[f"gpu-probe-{backend}"]
    assert (found["needs"], found["prediction"]["outcome"]) == (needs, "serves")
    laws = [name for name in found["findings"] if name.startswith("LC-")]
    assert len(laws) >= 10


def test_a_deployment_for_any_gpu_steps_aside_for_one_of_this_gpu(capsys):
    found = rows(capsys, "--hardware", "1xH200")
    assert "gpu-probe-vllm" not in found
    assert "LC-0060" in found["h200x1-probe-vllm-10m"]["findings"]


FINDING = """
id = "XX-0001"
title = "a boot that is said to fail"
question = "boot-fails"
markers = ["boot"]
status = "disputed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
backend = "vllm"
deployment = "scout-vllm-2m"
[expect]
outcome = "runs out of memory"
"""


def test_a_finding_that_the_physics_contradicts_is_named(capsys, tmp_path):
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "XX-0001.toml").write_text(FINDING)
    (tmp_path / "deployments").mkdir()
    found = rows(capsys, "--hardware", "8xH200", "--data", str(tmp_path))
    assert [name for name, row in found.items() if row["contradicts"]] == ["scout-vllm-2m"]
    assert cli.main(["plan", "--hardware", "8xH200", "--data", str(tmp_path)]) == 0
    assert "the findings document another outcome: the prediction or a finding is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--hardware", "8xH999"], "'8xH999' must be hardware"),
        (["plan", "--hardware", "8xH200", "--backend", "vlm"], "unknown backend 'vlm': did you mean 'vllm'?"),
        (["engine", "sglang"], "longctx cannot install the engine of backend 'sglang'"),
    ],
)
def test_the_console_says_what_is_wrong_in_one_line(capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_pytest_prints_the_plan_of_what_was_selected(run):
    done = run("--backend=sglang", "-m", "ten_million and expected_oom", "--longctx-plan", "--longctx-hardware=8xH200")
    assert done.outcome.ret == 0
    done.outcome.stdout.fnmatch_lines(
        [
            "scout-sglang-10m * findings  runs out of memory: req_to_token 76.33 GiB; --max-running-requests 8 fixes it",
            "*weights 30.09 GiB, req_to_token 76.33 GiB, KV pool * GiB, CUDA graph tables 0.00 GiB",
            "* deployments on 8xH200, about * GPU-hours; nothing was booted",
        ]
    )
    assert not (done.folder / "results").exists()


def test_a_boot_that_a_small_host_kills_is_not_said_to_fit(capsys):
    """VH-0011: the GPUs hold 3.29 requests, and the host's kernel ends the workers."""
    found = rows(capsys, "--hardware", "8xH200")["scout-vllm-10m-random-fp8"]
    assert re.fullmatch(r"fits 3\.29x on a host of 84\d GiB; dies on one of 588 GiB", found["verdict"])
    killed = rows(capsys, "--hardware", "8xH200", "--host-memory", "560")["scout-vllm-10m-random-fp8"]
    assert killed["verdict"].startswith("dies: ")


def test_a_rate_above_the_peak_breaks_whatever_the_finding_bounds():
    """The run documented with 69.35 s, judged as a new run."""
    from pytest_longctx import paths
    from pytest_longctx.client.exchange import Exchange, Usage
    from pytest_longctx.deployments import deployment
    from pytest_longctx.deployments.hardware import Hardware
    from pytest_longctx.findings import finding as findings
    from pytest_longctx.findings import verdicts
    from pytest_longctx.findings.scope import Conditions
    from pytest_longctx.launchers.boot import Boot

    known = deployment.load_all((paths.suites() / "deployments",))
    finding = findings.load_all((paths.suites() / "findings",))["SC-0001"]
    here = Conditions(known["scout-vllm-2m"], Hardware("H200", 8), "0.12.0", 2_097_152)
    seen = Boot(here, {}, 1.0).weigh(
        Exchange(
            2_065_427, 200, 0.0, "complete", 69.35, arrivals_s=(69.3, 69.35), usage=Usage(2_065_427, 200, 1_620_345)
        )
    )
    verdict = verdicts.judge(finding, seen)
    assert {line.measure for line in verdict.broken} == {"cached_share", "peak_share", "ttft_s"}


@pytest.mark.parametrize("workers", [[], ["-n2"], ["-n2", "--dist=worksteal"]], ids=" ".join)
def test_a_plan_needs_no_workers(run, workers):
    done = run("--backend=miniature", "-m", "smoke", "--longctx-plan", *workers)
    assert done.outcome.ret == 0
    assert "INTERNALERROR" not in done.text
    assert "miniature" in done.text.partition("collected")[2]
    assert not (done.folder / "results").exists()


def test_a_plan_with_workers_is_made_for_an_engine_that_has_the_machine_to_itself(run):
    done = run("--backend=vllm", "--longctx-hardware=8xH200", "-m", "smoke", "--longctx-plan", "-n2")
    assert done.outcome.ret == 0
    assert "scout-vllm-2m" in done.text
