"""Expectations for a measured CPU: dtype, times and deadlines; the identity of a deployment does not depend on them."""

import sys
from dataclasses import replace

import pytest

from pytest_longctx import paths, plan, processes, registry, toml
from pytest_longctx.backends import Backend, defaults
from pytest_longctx.deployments import deployment, hardware
from pytest_longctx.deployments.cpu_speed import DEADLINE_FACTOR, REFERENCE_PYTHON_S, Speed, fastest_by_flags
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.devices import calibration, detect
from pytest_longctx.errors import TableError, UsageError
from tests.unit import factories

AMX = Speed({"bfloat16": 2330.0, "float32": 338.0}, 13.8, REFERENCE_PYTHON_S)
AVX2 = Speed({"bfloat16": 1.2, "float32": 129.0}, 8.0, REFERENCE_PYTHON_S, frozenset({"avx512f", "amx_tile"}))
SHIPPED = deployment.load_all((paths.suites() / "deployments",))


def backend(name: str) -> Backend:
    made: Backend = registry.load(registry.BACKENDS[name])()
    return made


CPU = backend("vllm-cpu")


def settled(name: str, speed: Speed | None, flags: frozenset[str] | None = None) -> deployment.Deployment:
    here = Machine(Hardware("cpu"), cpu_flags=flags).measured(speed)
    return defaults.settle(SHIPPED[name], CPU, here)


@pytest.mark.parametrize(
    ("speed", "flags", "dtype"),
    [
        (AMX, None, "bfloat16"),
        (AVX2, frozenset({"amx_bf16"}), "float32"),  # the measurement takes precedence over the kernel's flags
        (None, frozenset({"avx2"}), "float32"),
        (None, frozenset({"avx2", "avx512f"}), "float32"),
        (None, frozenset({"avx512_bf16"}), "bfloat16"),
        (None, frozenset({"bf16", "asimd"}), "bfloat16"),
        (None, None, "bfloat16"),
    ],
)
def test_a_cpu_deployment_takes_the_dtype_that_the_cpu_is_fast_in(speed, flags, dtype):
    assert settled("cpu-probe-128k", speed, flags).flags["dtype"] == dtype
    assert settled("cpu-kv-auto", speed, flags).flags["dtype"] == "bfloat16"  # a value in the file is kept


def test_two_equal_rates_give_the_smaller_dtype():
    assert replace(AMX, gflop_per_s={"bfloat16": 5.0, "float32": 5.0}).fastest_dtype == "bfloat16"
    assert fastest_by_flags(frozenset()) == "float32"


def test_a_backend_that_computes_elsewhere_has_no_fastest_dtype():
    one = factories.deployment(flags={"dtype": "fastest"})
    with pytest.raises(UsageError, match=r"tiny: .* needs a backend that runs on a CPU; vllm does not"):
        defaults.settle(one, backend("vllm"), Machine(Hardware("H200")))


def test_a_command_line_never_says_fastest():
    argv = CPU.argv(SHIPPED["cpu-probe-128k"], "python", "model", 1)
    assert argv[argv.index("--dtype") + 1] == "bfloat16"
    argv = CPU.argv(settled("cpu-probe-128k", AVX2), "python", "model", 1)
    assert argv[argv.index("--dtype") + 1] == "float32"


def test_in_fp32_a_pool_holds_half():
    one, other = (plan.predict(settled("cpu-tiny-64k", speed), CPU, Machine(Hardware("cpu"))) for speed in (AMX, AVX2))
    assert one is not None
    assert other is not None
    assert (round(one.concurrency or 0, 2), round(other.concurrency or 0, 2)) == (87.15, 43.57)


@pytest.mark.parametrize(
    ("speed", "tokens", "seen_s"),
    [
        (AMX, 32_000, 6.41),  # docs/results/vllm-0.32.0-cpu
        (AMX, 131_072, 65.62),
        (AVX2, 4_000, 2.48),  # vllm's AVX2 build in FP32, two shared cores of a Xeon
        (AVX2, 16_000, 22.9),
        (AVX2, 32_000, 63.1),
    ],
)
def test_expected_times_are_those_that_were_seen(speed, tokens, seen_s):
    one = settled("cpu-probe-128k", speed)
    expected_s = plan.expected_ttft_s(one, tokens, Hardware("cpu"), CPU)
    assert expected_s == one.timeouts.expected_prefill_s(tokens)
    assert seen_s / 2 < (expected_s or 0.0) < seen_s * 2.2


def test_a_deadline_follows_a_slow_machine_and_never_shrinks():
    slow, fast, unknown = (settled("cpu-probe-128k", speed).timeouts for speed in (AVX2, AMX, None))
    assert slow.request_s(131_072, 1) > DEADLINE_FACTOR * slow.expected_prefill_s(131_072) > 1000
    assert (
        fast.request_s(1_000, 4)
        == unknown.request_s(1_000, 4)
        == SHIPPED["cpu-probe-128k"].timeouts.request_s(1_000, 4)
    )
    slowly = settled("cpu-probe-128k", replace(AMX, python_s=10 * REFERENCE_PYTHON_S)).timeouts
    assert slowly.boot_limit_s > 3000
    assert fast.boot_limit_s == unknown.boot_limit_s == 600
    assert CPU.recipe(settled("cpu-probe-128k", AMX), "m", 1).boot_s == 600


def test_what_was_measured_is_no_part_of_a_deployment():
    """Otherwise no run could be resumed or compared with one of another day."""
    slower = replace(AMX, gflop_per_s={"bfloat16": 2000.0, "float32": 300.0})
    digests = {toml.digest(settled("cpu-probe-128k", speed)) for speed in (AMX, slower, None)}
    assert len(digests) == 1
    assert toml.digest(settled("cpu-probe-128k", AVX2)) not in digests
    with pytest.raises(TableError, match="expected_boot_s is measured on the machine and cannot be set in a file"):
        factories.deployment(timeouts={"expected_boot_s": 3.0})


def test_a_machine_that_was_measured_tells_its_figures_and_what_the_engine_denies():
    here = Machine(Hardware("cpu"), {"host_cores": "2"}, cpu_flags=frozenset({"avx2", "avx512f", "amx_tile"})).measured(
        AVX2
    )
    assert here.cpu_flags == frozenset({"avx2"})
    assert here.facts["cpu_float32_gflop_per_s"] == "129.0"
    assert here.facts["cpu_bfloat16_gflop_per_s"] == "1.2"
    assert here.facts["cpu_engine_lacks"] == "amx_tile avx512f"
    assert here.facts["host_cores"] == "2"
    assert Machine(None).measured(None) == Machine(None)


def test_the_flags_of_this_machine_are_known_ones():
    assert (detect.cpu_flags() or frozenset()) <= set(hardware.CPU_FLAGS)


def test_only_what_decides_the_speed_tells_environments_apart():
    assert calibration.deciding({"PATH": "/bin", "HOME": "/x"}) == frozenset()
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS"):
        assert calibration.deciding({name: "a"}) != calibration.deciding({name: "b"})
        assert name in processes.environment(
            CPU.recipe(SHIPPED["cpu-kv-auto"], "m", 1), {name: "a"}
        )  # the value is passed to the server too


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_an_interpreter_that_cannot_measure_leaves_it_unknown(tmp_path, python):
    assert calibration.measure(tmp_path / python.lstrip("/"), {}) is None
    assert (
        calibration.measure(type(tmp_path)(sys.executable), {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": ""}) is None
    )


def test_a_plan_says_how_many_boots_and_how_long():
    rows = (
        plan.Row("one", "cpu", ("LC-0001",), boot_s=40.0, test_s=60.0),
        plan.Row("two", "cpu", ("LC-0001",), boot_s=30.0),
        plan.Row("far", "8xH200", ("LC-0001",), out_of_scope="needs 8xH200", boot_s=600.0),
    )
    made = plan.Plan(Hardware("cpu"), rows)
    assert made.boots == ("one", "two")
    assert made.foretold() == "2 boots, about 2 min on this machine"
    assert plan.Plan(Hardware("cpu"), rows[:1]).foretold() == "1 boot, about 2 min on this machine"
    unknown = plan.Plan(Hardware("cpu"), (*rows, plan.Row("who", "cpu", ())))
    assert unknown.foretold() == "3 boots"
