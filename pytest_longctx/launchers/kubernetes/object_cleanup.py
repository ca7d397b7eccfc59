"""
Cleanup script for Kubernetes, which deletes the objects of a run that has ended.

The command is ``python -P object_cleanup.py FD NAMESPACE RUN GRACE_S``. The script imports nothing of this package. The kernel
closes the pipe FD when the launcher ends, even by SIGKILL. The script then deletes every object with the label of RUN, and no
other. If this machine fails, the Pod ends at its ``activeDeadlineSeconds``, and a later run deletes the other objects.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

RUN_LABEL = "pytest-longctx.run"
"""The label whose value identifies the boot of an object."""
EXPIRES = "pytest-longctx.expires"
"""The annotation with the Unix time from which the objects of that boot are not needed any more."""
KINDS: Mapping[str, tuple[str, str]] = {
    "LeaderWorkerSet": ("apis/leaderworkerset.x-k8s.io/v1", "leaderworkersets"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "Secret": ("api/v1", "secrets"),
    "ConfigMap": ("api/v1", "configmaps"),
}
"""The kinds of a run's objects: API group and name. Kinds that create others come first, the owner of all last."""

PATIENCE_S = 600.0
_SETTLED_S = 1.5
"""Seconds after the last object in which another may appear, because its request may still be in progress."""
_ANSWER_S = 30.0
"""Most seconds between two pieces of an answer."""
_WHOLE_S = 60.0
"""Most seconds for a whole answer."""
MOST_BYTES = 16 * 2**20
"""Most bytes of an answer. A list of thousands of objects is smaller."""
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Api:
    """The API of a cluster, with the official client's configuration, credentials and connections."""

    def __init__(self) -> None:
        from kubernetes import client, config

        self.inside = False
        """Whether this process runs in a Pod of that cluster, with the Pod's credentials."""
        self.configuration = client.Configuration()
        self.namespace = "default"
        try:
            where = os.environ.get("KUBECONFIG")  # the client checks this once, at import
            config.load_kube_config(where, client_configuration=self.configuration)
            _, context = config.list_kube_config_contexts(where)
            self.namespace = context["context"].get("namespace") or self.namespace
        except config.ConfigException:
            config.load_incluster_config(client_configuration=self.configuration)
            self.inside = True
            self.namespace = _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        self._pool = client.ApiClient(self.configuration).rest_client.pool_manager

    def headers(self) -> dict[str, str]:
        """Return the credentials for the Kubernetes API. An expired token is renewed."""
        found = self.configuration.auth_settings().values()
        return {each["key"]: each["value"] for each in found if each["in"] == "header" and each["value"]}

    def open(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = None) -> Any:
        """Return a response of the Kubernetes API with an unread body. Raises OSError if the API does not answer."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        more = {} if body is None else {"body": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        headers = {"Accept": "application/json, */*", **self.headers(), **more.pop("headers", {})}  # type: ignore[dict-item]
        try:
            return self._pool.request(
                method,
                f"{self.configuration.host.rstrip('/')}/{path}",
                headers=headers,
                preload_content=False,
                decode_content=False,  # no encoding is asked for, and an answer must not grow here
                redirect=False,  # the credentials are for this address only
                retries=False,
                timeout=Timeout(connect=10, read=timeout_s),
                **more,
            )
        except HTTPError as problem:
            raise ConnectionError(str(problem)) from None

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """
        Send one request to the Kubernetes API, and return the status and the JSON object of the answer.

        If the answer is not a JSON object, its text is returned as ``message``. Raises OSError if the API does not answer
        within a minute, and if the answer is a redirect or is larger than `MOST_BYTES`.
        """
        found: tuple[int, dict[str, Any]] = _within(_WHOLE_S, lambda: self._call(method, path, body))
        return found

    def _call(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        from urllib3.exceptions import HTTPError

        response = self.open(method, path, body, timeout_s=_ANSWER_S)
        where = path.partition("?")[0]
        try:
            text = response.read(MOST_BYTES + 1)
        except HTTPError as problem:
            raise ConnectionError(str(problem)) from None
        finally:
            response.close()  # a connection whose answer was read to its end is back in the pool by now
        if len(text) > MOST_BYTES:
            raise ConnectionError(f"the answer to {method} {where} has more than {MOST_BYTES // 2**20} MiB")
        if 300 <= response.status < 400:
            raise ConnectionError(f"the answer to {method} {where} is a redirect, which is not followed")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        return response.status, found if isinstance(found, dict) else {
            "message": text[:1000].decode("utf-8", "replace")
        }


def _within(most_s: float, work: Callable[[], Any]) -> Any:
    """
    Return the result of *work*. Raises ConnectionError after *most_s* seconds, for example for an answer sent byte by
    byte.

    The same as `launchers.time_limit.within`, which this script cannot import.
    """
    ends: list[tuple[Any, Exception | None]] = []

    def run() -> None:
        try:
            ends.append((work(), None))
        except Exception as problem:  # noqa: BLE001 - it is raised below
            ends.append((None, problem))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(most_s)
    if not ends:
        raise ConnectionError(f"no complete answer within {most_s:.0f} s")
    made, problem = ends[0]
    if problem is not None:
        raise problem
    return made


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """Return the path in the Kubernetes API of all objects of *kind*, or of the object with the name *name*."""
    group, plural = KINDS[kind]
    return f"{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def labelled(api: Api, kind: str, namespace: str, label: str) -> list[dict[str, Any]]:
    """
    Return every Kubernetes object of *kind* with *label* or ``label=value``; none if the cluster does not have the
    kind.
    """
    status, found = api.call("GET", f"{path_of(kind, namespace)}?{urlencode({'labelSelector': label})}")
    if status >= 500:
        raise ConnectionError(f"HTTP {status}: {found.get('message')}")
    rows = found.get("items") or [] if status == 200 else []
    if not isinstance(rows, list) or not all(map(_is_named, rows)):
        raise ConnectionError(f"the answer must be a list of objects of kind {kind}")
    # An API, or a proxy before it, that ignores the selector must not cost others their objects.
    name, has_value, value = label.partition("=")
    kept = [(each, each["metadata"].get("labels") or {}) for each in rows]
    return [each for each, labels in kept if name in labels and (not has_value or labels[name] == value)]


def _is_named(row: Any) -> bool:
    """Return whether *row* has the fields of a Kubernetes object that this package uses."""
    meta = row.get("metadata") if isinstance(row, dict) else None
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        return False
    texts = [meta.get(name) or {} for name in ("labels", "annotations")]
    return all(isinstance(each, dict) and all(isinstance(value, str) for value in each.values()) for each in texts)


def _left(api: Api, namespace: str, run: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in KINDS:
        for each in labelled(api, kind, namespace, f"{RUN_LABEL}={run}"):
            yield kind, each["metadata"]


def delete_run(api: Api, namespace: str, run: str, grace_s: float, *, await_late: bool) -> None:
    """
    Delete every object of *run* and wait until none is left.

    *await_late* also waits for an object that the API may still be creating.
    """
    end = time.monotonic() + PATIENCE_S
    settled = time.monotonic() + (_SETTLED_S if await_late else 0.0)
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": round(grace_s)}
    while time.monotonic() < end:
        try:
            found = list(_left(api, namespace, run))
            for kind, each in found:
                if "deletionTimestamp" not in each:
                    api.call("DELETE", path_of(kind, namespace, each["name"]), options)
        except OSError:
            settled = time.monotonic() + _SETTLED_S
        else:
            if not found and time.monotonic() >= settled:
                return
        time.sleep(0.3)


def main(pipe: int, namespace: str, run: str, grace_s: float) -> None:
    """
    Wait until *pipe* ends, then delete the run's objects.

    A byte before the end means that the launcher has ended normally and creates no more objects.
    """
    all_created = bool(os.read(pipe, 1))
    delete_run(Api(), namespace, run, grace_s, await_late=not all_created)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
