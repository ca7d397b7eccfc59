"""After a failed boot, changes of flags are named that the predictor says serve."""

import pytest

from pytest_longctx import paths
from pytest_longctx.deployments.deployment import load_all
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.errors import BootError
from pytest_longctx.observation import Observation
from pytest_longctx.plan.failed_boot import rows

DEPLOYMENTS = load_all((paths.suites() / "deployments",))


def tried(name, hardware, kind="gpu-oom-kv"):
    return list(rows(kind, DEPLOYMENTS[name], Machine(Hardware.parse(hardware) if hardware else None)))


@pytest.mark.parametrize(
    ("name", "hardware", "first"),
    [
        ("scout-vllm-8m-095", "8xH200", "--gpu-memory-utilization 0.9: fits "),
        ("scout-vllm-5m-hybrid-off", "8xH200", "--kv-cache-dtype fp8: fits "),
        ("scout-vllm-2m", "8xH200", "the prediction was that the server serves: "),
    ],
)
def test_a_remedy_is_named_with_what_it_comes_to(name, hardware, first):
    assert tried(name, hardware)[0].startswith(first)


def test_nothing_is_tried_without_a_prediction_or_for_another_failure():
    assert tried("scout-vllm-8m-095", "8xH200", "port-taken") == []
    assert tried("scout-vllm-8m-095", None) == []
    assert tried("miniature", "8xH200") == []
    assert tried("llama33-64k-batch-4", "8xtrn2") == []


def test_rows_are_put_before_the_remedy():
    failure = BootError("a did not become ready\n  because  x\n  try      y\n  again    z", Observation("dies"))
    assert str(failure.with_rows("tried", ["b", "c"])) == (
        "a did not become ready\n  because  x\n  tried    b\n  tried    c\n  try      y\n  again    z"
    )
    assert failure.with_rows("tried", []) is failure
