"""
Cleanup script for Docker, which removes the containers of a run that has ended.

The command is ``python -I container_cleanup.py FD SOCKET RUN GRACE_S``. The script imports the standard library only, so it
starts at once and needs no import path. The kernel closes the pipe FD when the launcher ends, even by SIGKILL. The script then
stops and removes every container with the label of RUN, and no other. If the engine does not answer, the script retries for
`PATIENCE_S`, because the containers are still there when the engine starts again.
"""

import http.client
import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

RUN_LABEL = "pytest-longctx.run"
"""The label whose value identifies the boot of a container."""
OWNER_LABEL = "pytest-longctx.owner"
"""The label whose value identifies the process that created a container; see `owner`."""

PATIENCE_S = 600.0
_WHOLE_S = 180.0
"""Most seconds for a whole answer. Stopping a container takes up to its grace period."""
MOST_BYTES = 16 * 2**20
"""Most bytes of an answer. A list of thousands of containers is smaller."""
_SETTLED_S = 1.5
"""Seconds after the last container in which another may appear, because its request may still be in progress."""


class Engine(http.client.HTTPConnection):
    """The API of a container engine at a Unix socket."""

    def __init__(self, path: str, timeout_s: float | None = 60) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        """Connect to Docker's Unix socket instead of over TCP."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
        self._connected = self.sock  # an answer that ends with its connection takes it over

    def cut(self) -> None:
        """End the connection from another thread."""
        with suppress(OSError):
            self._connected.shutdown(socket.SHUT_RDWR)


def call(path: str, method: str, what: str) -> Any:
    """
    Send one request to the Docker engine at the socket *path*, and return the JSON of the answer; None for an empty
    answer.

    Raises OSError if the engine does not answer, and if the answer is not JSON or is larger than `MOST_BYTES`.
    """
    engine = Engine(path)
    end = threading.Timer(_WHOLE_S, engine.cut)  # the timeout is for each piece of an answer
    end.daemon = True
    try:
        engine.connect()
        end.start()
        engine.request(method, what)
        with engine.getresponse() as answer:
            body = answer.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ConnectionError(f"the answer has more than {MOST_BYTES // 2**20} MiB")
        return json.loads(body) if answer.status == 200 and body else None
    except http.client.HTTPException as problem:
        raise ConnectionError(f"{type(problem).__name__}: {problem}") from None
    except (ValueError, RecursionError) as problem:
        raise ConnectionError(f"the answer is not JSON: {problem}") from None
    finally:
        end.cancel()
        engine.close()


def labelled(path: str, label: str) -> list[tuple[str, dict[str, str]]]:
    """
    Return id and labels of every container, running or not, with *label* or ``label=value``. Raises OSError as `call`
    does.
    """
    filters = quote(json.dumps({"label": [label]}))
    found = call(path, "GET", f"/containers/json?all=1&filters={filters}") or []
    try:
        rows = [
            (str(each["Id"]), {str(name): str(value) for name, value in (each.get("Labels") or {}).items()})
            for each in found
        ]
    except (AttributeError, LookupError, TypeError) as problem:
        raise ConnectionError(f"the answer must be a list of containers: {type(problem).__name__}: {problem}") from None
    # An engine that ignores the filter must not cost others their containers.
    name, has_value, value = label.partition("=")
    return [(each, labels) for each, labels in rows if name in labels and (not has_value or labels[name] == value)]


def remove(path: str, container: str, grace_s: float) -> None:
    """Stop *container* with SIGTERM, then SIGKILL, and remove it with its anonymous volumes."""
    if grace_s:
        call(path, "POST", f"/containers/{container}/stop?t={grace_s:.0f}")
    call(path, "DELETE", f"/containers/{container}?force=1&v=1")


def remove_run(path: str, run: str, grace_s: float, *, await_late: bool) -> None:
    """
    Remove every container of *run*. With *await_late*, also wait for a container that the Docker engine may still be
    creating.
    """
    end = time.monotonic() + PATIENCE_S
    settled = time.monotonic() + (_SETTLED_S if await_late else 0.0)
    while time.monotonic() < end:
        try:
            found = labelled(path, f"{RUN_LABEL}={run}")
            for container, _ in found:
                remove(path, container, grace_s)
        except OSError:
            settled = time.monotonic() + _SETTLED_S
        else:
            if not found and time.monotonic() >= settled:
                return
        time.sleep(0.2)


def owner() -> str:
    """Return the unique identity of this process: the kernel's boot, PID namespace, PID and start time."""
    pid = os.getpid()
    return f"{_boot()} {_namespace()} {pid} {_started(pid)}"


def is_dead(who: str) -> bool:
    """
    Return whether the process that started a container has ended; False if unknown.

    *who* is the `owner` text of the process.
    """
    boot, namespace, pid, started = (*who.split(), "", "", "", "")[:4]
    if not pid.isdigit() or not boot:
        return False
    if boot != _boot():
        return True
    # One socket may serve several PID namespaces; processes of another are not visible.
    return namespace == _namespace() and _started(int(pid)) != started


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _started(pid: int) -> str:
    """Return the clock ticks from the kernel's boot to the start of *pid*; empty if no such process exists."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def main(pipe: int, path: str, run: str, grace_s: float) -> None:
    """
    Wait until *pipe* ends, then remove the run's containers.

    A byte before the end means that the launcher has ended normally and creates no more containers.
    """
    all_created = bool(os.read(pipe, 1))
    remove_run(path, run, grace_s, await_late=not all_created)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
