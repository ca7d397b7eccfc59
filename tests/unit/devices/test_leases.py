"""Device leases of one host: each device has one holder at a time."""

import tempfile
import threading
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.devices import leases
from pytest_longctx.errors import LaunchError


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))


def test_two_holders_have_different_devices(shared):
    with leases.lease("H200", 1, 2, {}) as one, leases.lease("H200", 1, 2, {}) as other:
        assert [shown["CUDA_VISIBLE_DEVICES"] for shown in (one, other)] == ["0", "1"]


@pytest.mark.parametrize(
    ("kind", "inherited", "shown"),
    [
        # Without a fixed order CUDA's index differs from that of NVML, which samples the device.
        ("H200", {}, {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ("MI300X", {}, {"HIP_VISIBLE_DEVICES": "0,1"}),
        ("MI300X", {"ROCR_VISIBLE_DEVICES": "5,6,7"}, {"ROCR_VISIBLE_DEVICES": "5,6"}),
    ],
)
def test_each_kind_has_its_variable(shared, kind, inherited, shown):
    with leases.lease(kind, 2, 4, inherited) as mine:
        assert mine == shown


def test_a_machine_whose_devices_cannot_be_shown_singly_is_leased_whole(shared, monkeypatch):
    monkeypatch.setattr(leases, "_POLL_S", 0.01)

    def waits():
        raise InterruptedError

    with leases.lease("trn2", 2, 16, {"NEURON_RT_VISIBLE_CORES": "0-3"}) as shown:
        assert shown == {}
        with pytest.raises(InterruptedError), leases.lease("trn2", 2, 16, {}, waits):
            pass


def test_only_devices_that_are_visible_are_leased(shared):
    inherited = {"CUDA_VISIBLE_DEVICES": "5, 7"}
    with leases.lease("H200", 1, 8, inherited) as one, leases.lease("H200", 1, 8, inherited) as other:
        assert [shown["CUDA_VISIBLE_DEVICES"] for shown in (one, other)] == ["5", "7"]
    with (
        pytest.raises(LaunchError, match="3 H200 are needed, but there are only 2"),
        leases.lease("H200", 3, 8, inherited),
    ):
        pass


def test_who_comes_too_late_waits_and_takes_none_meanwhile(shared, monkeypatch):
    """One of two devices is free and two are requested. The free one stays available for a request of one device."""
    monkeypatch.setattr(leases, "_POLL_S", 0.01)
    waiting, story = threading.Event(), []

    def both():
        with leases.lease("H200", 2, 2, {}, waiting.set):
            story.append("both")

    with leases.lease("H200", 1, 2, {}):
        thread = threading.Thread(target=both)
        thread.start()
        assert waiting.wait(10)
        with leases.lease("H200", 1, 2, {}):
            story.append("one")
    thread.join(10)
    assert story == ["one", "both"]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_no_device_is_held_twice(counts):
    there, held = sum(counts), []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        patch.setattr(tempfile, "gettempdir", lambda: folder)
        for count in counts:
            shown = stack.enter_context(leases.lease("H200", count, there, {}))
            held += shown["CUDA_VISIBLE_DEVICES"].split(",")
    assert sorted(held, key=int) == [str(index) for index in range(there)]
