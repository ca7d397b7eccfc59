"""The sampler reads the devices, stores the samples, and never disturbs the run."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import Device, Holder, monitor
from pytest_longctx.devices.monitor import monitored, visible
from pytest_longctx.devices.sampler import Sampler
from pytest_longctx.errors import LaunchError
from pytest_longctx.units import GiB
from tests.unit import factories


class Scripted:
    """A source with scripted samples, followed by errors only."""

    name = "scripted-smi"
    every_s = 0.0

    def __init__(self, *used_gib, holders=()):
        self.used_gib, self.held, self.closed = list(used_gib), tuple(holders), False

    def devices(self):
        used_gib = self.used_gib.pop(0) if len(self.used_gib) > 1 else self.used_gib[0]
        if used_gib is None:
            raise OSError("exit code 9")
        return (Device(0, used_gib * GiB), Device(1))

    def holders(self):
        return self.held

    def close(self):
        self.closed = True


@pytest.fixture
def sourced(monkeypatch):
    """Sample every device with the given source."""

    def use(source):
        monkeypatch.setattr(monitor, "_open", lambda *_, contained: (source, ""))
        return source

    return use


def noted() -> list[Mapping[str, Any]]:
    """Destination of result rows."""
    return []


def figures(rows):
    return [row["figures"] for row in rows if row["figures"]]


def said(rows):
    return [row["said"] for row in rows if "said" in row]


def test_a_look_is_a_row_and_a_device_that_does_not_tell_is_null():
    rows = noted()
    Sampler("tiny", rows.append, Scripted(2.0)).beat()
    (row,) = rows
    assert row["deployment"] == "tiny"
    assert abs(row["at_s"] - time.time()) < 60
    assert row["figures"] == {"device_memory_gib": [2.0, None]}


def test_a_source_that_fails_is_heard_once_and_asked_no_more():
    rows = noted()
    pulse = Sampler("tiny", rows.append, Scripted(2.0, None))
    for _ in range(4):
        pulse.beat()
    assert figures(rows) == [{"device_memory_gib": [2.0, None]}]
    assert said(rows) == ["scripted-smi can no longer be read: OSError('exit code 9')"]


def test_nothing_to_look_at_is_nothing_written():
    rows = noted()
    pulse = Sampler("tiny", rows.append)
    pulse.beat()
    assert rows == []
    assert pulse.peaks(0.0, time.monotonic()) == {}


def test_a_peak_is_that_of_its_time():
    pulse = Sampler("tiny", lambda row: None, Scripted(1.0, 5.0, 3.0))
    times = []
    for _ in range(3):
        pulse.beat()
        times.append(time.monotonic())
    assert pulse.peaks(0.0, times[2]) == {"device_peak_gib": 5.0}
    assert pulse.peaks(times[1], times[2]) == {"device_peak_gib": 3.0}
    assert pulse.peaks(0.0, times[0]) == {"device_peak_gib": 1.0}
    # Too short for a sample of its own: the nearest one is used.
    assert pulse.peaks(times[2], times[2]) == {"device_peak_gib": 3.0}


class Working(Scripted):
    """Reports the utilisation of its devices, except the last."""

    def devices(self):
        share = self.used_gib.pop(0)
        return (Device(0, utilisation=share), Device(1, utilisation=share / 2), Device(2))


def test_how_busy_devices_were_is_a_mean_over_them_and_over_looks_enough():
    pulse = Sampler("tiny", lambda row: None, Working(1.0, 0.8, 0.6, 0.4, 0.2, 0.0))
    times = []
    for _ in range(5):
        pulse.beat()
        times.append(time.monotonic())
    assert pulse.meanwhile(0.0, times[4]) == {"device_busy_share": pytest.approx(0.45)}
    assert pulse.meanwhile(times[0], times[4]) == {}  # four samples are too few


def test_a_source_that_does_not_tell_how_busy_devices_are_gives_no_share():
    pulse = Sampler("tiny", lambda row: None, Scripted(1.0))
    for _ in range(6):
        pulse.beat()
    assert pulse.meanwhile(0.0, time.monotonic()) == {"device_peak_gib": 1.0}


def test_a_request_is_left_alone_at_first(monkeypatch):
    rows = noted()
    monkeypatch.setattr("pytest_longctx.devices.sampler.PERIOD_S", 0.02)
    with Sampler("tiny", rows.append, Scripted(1.0)) as pulse:
        while len(rows) < 3:
            time.sleep(0.01)
        monkeypatch.setattr("pytest_longctx.devices.sampler.PERIOD_S", 600.0)
        pulse.hold_still()
        before = len(rows)
        time.sleep(0.3)
        assert len(rows) == before


def test_a_server_is_watched_over_in_a_thread_that_ends_with_it(sourced):
    source, rows = sourced(Scripted(0.0)), noted()
    with monitored(factories.deployment(), Hardware("H200"), {}, rows.append, contained=False, allow_busy=False):
        assert "longctx-pulse" in {one.name for one in threading.enumerate()}
        while not rows:
            time.sleep(0.01)
    assert "longctx-pulse" not in {one.name for one in threading.enumerate()}
    assert source.closed
    assert said(rows) == []


def test_a_boot_on_a_busy_device_is_refused_unless_it_is_allowed(sourced):
    source, rows = sourced(Scripted(40.0, holders=[Holder(0, 1, 40 * GiB)])), noted()
    with (
        pytest.raises(
            LaunchError, match=r"tiny was not booted.*\n.*\n  found    device 0: 40\.00 GiB in use by pid 1:"
        ),
        monitored(factories.deployment(), Hardware("H200"), {}, rows.append, contained=False, allow_busy=False),
    ):
        raise AssertionError
    assert source.closed
    with monitored(factories.deployment(), Hardware("H200"), {}, rows.append, contained=False, allow_busy=True):
        pass
    assert said(rows) == []  # this memory was in use before and does not belong to the server


def test_memory_that_does_not_come_back_is_said_with_its_holder(sourced, monkeypatch):
    monkeypatch.setattr("pytest_longctx.devices.memory_holders.await_release.__defaults__", (0.0,))
    source, rows = sourced(Scripted(0.0)), noted()
    with monitored(factories.deployment(), Hardware("H200"), {}, rows.append, contained=False, allow_busy=False):
        source.used_gib, source.held = [70.0], (Holder(0, 1, 70 * GiB),)
    (line,) = said(rows)
    assert line.startswith("tiny has stopped, but its memory was not released: device 0: 70.00 GiB in use by pid 1: ")


@pytest.mark.parametrize("kind", ["H200", "MI300X", "trn2"])
def test_a_tool_that_is_not_there_is_said_and_fails_nothing(kind, monkeypatch):
    monkeypatch.setenv("PATH", "")
    rows = noted()
    with monitored(factories.deployment(), Hardware(kind, 8), {}, rows.append, contained=False, allow_busy=False):
        pass
    (line,) = said(rows)
    assert line.startswith(f"{Hardware(kind, 8)} cannot be monitored or checked for memory in use")


@pytest.mark.parametrize("hardware", [None, Hardware("cpu")])
def test_where_there_is_no_device_nobody_is_asked(hardware):
    rows = noted()
    with monitored(factories.deployment(), hardware, {}, rows.append, contained=False, allow_busy=False):
        pass
    assert rows == []


def test_the_devices_of_a_server_are_those_that_its_environment_names_or_its_container():
    here = {"CUDA_VISIBLE_DEVICES": "1, GPU-8a5c"}
    assert visible(factories.deployment(), "H200", here, contained=False) == ("1", "GPU-8a5c")
    assert visible(factories.deployment(), "MI300X", {**here, "ROCR_VISIBLE_DEVICES": "3"}, contained=False) == ("3",)
    assert visible(factories.deployment(), "H200", {}, contained=False) == ()
    named = factories.deployment(docker={"gpus": ["nvidia.com/gpu=2", "all", "4"]})
    assert visible(named, "H200", here, contained=True) == ("2", "4")
