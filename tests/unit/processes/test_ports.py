"""A port is reserved from its choice to the end of its server."""

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from pytest_longctx.errors import LaunchError
from pytest_longctx.processes import ports
from pytest_longctx.processes.ports import free_ports, reserved_port

CHOOSE = """
import sys
from pytest_longctx.processes import ports
ports._outside = lambda ephemeral: range(int(sys.argv[1]), int(sys.argv[1]) + 3)
with ports.reserved_port(None) as port:
    print(port, flush=True)
    sys.stdin.read()
"""


def test_a_chosen_port_can_be_bound_and_is_outside_of_the_kernels_range():
    with reserved_port(None) as port, socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
    assert port not in ports._ephemeral()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names of sockets are Linux's")
def test_runs_never_choose_the_same_port():
    """Of three ports, three runs choose one each, and a fourth finds none."""
    with reserved_port(None) as first:
        pass
    lowest = first - first % 3
    with ExitStack() as held:
        runs = [
            held.enter_context(
                subprocess.Popen(
                    (sys.executable, "-c", CHOOSE, str(lowest)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(3)
        ]
        assert {int(next(iter(run.stdout or ()))) for run in runs} == {lowest, lowest + 1, lowest + 2}
        fourth = subprocess.run(
            (sys.executable, "-c", CHOOSE, str(lowest)), capture_output=True, text=True, check=False
        )
        for run in runs:
            run.terminate()
    assert "no free port on 127.0.0.1 was found in 64 attempts" in fourth.stderr


def test_a_reserved_port_is_free_after_its_server():
    with reserved_port(None) as port:
        pass
    with reserved_port(port) as again:
        assert again == port


def test_a_wanted_port_that_another_run_has_reserved_is_taken():
    with reserved_port(None) as port, pytest.raises(LaunchError, match=f"port {port} .* .another run has reserved it"):
        reserved_port(port).__enter__()


def test_a_wanted_port_that_a_server_listens_on_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port} on 127.0.0.1 is taken .Address already in use"):
            reserved_port(port).__enter__()


def test_ports_for_the_roles_of_one_server_differ():
    assert len(set(free_ports(20))) == 20


def test_a_port_with_a_server_is_not_chosen(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(ports, "_outside", lambda _: range(port, port + 1))
        with pytest.raises(LaunchError, match="no free port"):
            reserved_port(None).__enter__()


def test_the_kernel_chooses_where_its_range_has_all_ports(monkeypatch):
    monkeypatch.setattr(ports, "_ephemeral", lambda: range(1024, 65536))
    with reserved_port(None) as port, socket.socket() as server:
        server.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("ephemeral", "outside"),
    [
        (range(32768, 61000), range(20000, 32768)),
        (range(49152, 65536), range(20000, 49152)),
        (range(10000, 30000), range(30000, 65536)),
        (range(1024, 65536), range(0)),
    ],
)
def test_the_larger_range_beside_the_kernels_is_used(ephemeral, outside):
    assert list(ports._outside(ephemeral)) == list(outside)


@pytest.mark.parametrize("wanted", [0, -1, 65536, "8000", True, 8000.0])
def test_no_port_is_refused(wanted):
    with pytest.raises(LaunchError, match="must be a port from 1 to 65535"):
        reserved_port(wanted).__enter__()
