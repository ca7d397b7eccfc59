"""Client of a Kubernetes cluster: create objects, watch them, and explain errors of the cluster's API."""

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.kubernetes import object_cleanup
from pytest_longctx.launchers.kubernetes.object_cleanup import EXPIRES, RUN_LABEL, path_of
from pytest_longctx.redaction import remember

_REMEDIES = {
    401: "a newer KUBECONFIG: the cluster does not accept its credentials",
    403: "the Role in docs/how-to/run-on-kubernetes.md for the user or account of KUBECONFIG",
    404: "the namespace, and for a LeaderWorkerSet its controller: https://lws.sigs.k8s.io",
    422: "longctx render DEPLOYMENT, and the key of [kubernetes] or [docker] behind that field",
}
"""Remedies for errors of the API, by HTTP status."""
_PIECE_BYTES = 64 * 1024


class Cluster:
    """One namespace of a Kubernetes cluster."""

    def __init__(self, namespace: str | None) -> None:
        """Connect to the cluster. Raises `LaunchError` that names the missing part."""
        try:
            import kubernetes
        except ImportError:
            raise LaunchError(
                "the kubernetes launcher needs the official client\n  try      pip install 'pytest-longctx[kubernetes]'"
            ) from None
        try:
            self.api = object_cleanup.Api()
        except kubernetes.config.ConfigException as problem:
            raise LaunchError(
                f"no cluster is configured: {problem}\n  try      KUBECONFIG=FILE, and kubectl config current-context"
            ) from None
        self.namespace = namespace or self.api.namespace
        # An API, or a proxy before it, may repeat them in an error.
        remember(word for value in self.api.headers().values() for word in value.split())
        self.version = str(self._ask("GET", "version", "reported its version").get("gitVersion", ""))

    @property
    def host(self) -> str:
        """Address of the cluster's API."""
        return str(self.api.configuration.host)

    def _ask(self, method: str, path: str, wanted: str, body: Any = None) -> Any:
        """
        Send a request to the cluster, and return the JSON of the answer. Raises `LaunchError` with the API's message
        for an error.
        """
        try:
            status, found = self.api.call(method, path, body)
        except OSError as problem:
            raise LaunchError(
                f"the cluster at {self.host} does not answer: {problem}\n  try      kubectl cluster-info"
            ) from None
        if status < 300:
            return found
        remedy = _REMEDIES.get(status, "kubectl get events")
        raise LaunchError(
            f"the cluster at {self.host} has not {wanted} (HTTP {status}): {found.get('message')}\n  try      {remedy}"
        )

    def make(self, made: dict[str, Any]) -> dict[str, Any]:
        """Create an object in the cluster, and return the object as the cluster stores it. Raises `LaunchError`."""
        kind, name = made["kind"], made["metadata"]["name"]
        answer: dict[str, Any] = self._ask("POST", path_of(kind, self.namespace), f"made the {kind} {name}", made)
        meta = answer.get("metadata")
        if not isinstance(meta, dict) or not isinstance(meta.get("uid"), str):
            raise LaunchError(
                f"the cluster at {self.host} gave an invalid answer: the {kind} {name} that it created has no uid\n"
                "  try      kubectl cluster-info, and the proxy before the API, if there is one"
            )
        return answer

    def pods(self, run_id: str) -> list[dict[str, Any]]:
        """Return the Pods of a run as the cluster lists them. Raises OSError if the API does not answer."""
        return object_cleanup.labelled(self.api, "Pod", self.namespace, f"{RUN_LABEL}={run_id}")

    def events(self, pod: str) -> list[dict[str, Any]]:
        """Return the events of a Pod, the latest last; none without the permission to list events. Raises OSError."""
        about = urlencode({"fieldSelector": f"involvedObject.name={pod}"})
        _, found = self.api.call("GET", f"api/v1/namespaces/{self.namespace}/events?{about}")
        rows = found.get("items") or []
        if not isinstance(rows, list) or not all(isinstance(each, dict) for each in rows):
            raise ConnectionError("the answer must be a list of events")
        return rows

    def follow(self, pod: str) -> Iterator[bytes]:
        """Yield the log of a Pod's engine from its start, as the log grows. Raises OSError."""
        from urllib3.exceptions import HTTPError

        asked = urlencode({"container": "engine", "follow": "true"})
        response = self.api.open("GET", f"{path_of('Pod', self.namespace, pod)}/log?{asked}")
        try:
            if response.status != 200:
                raise ConnectionError(f"HTTP {response.status}: {_message(response.read(_PIECE_BYTES))}")
            # In pieces: the length of a chunk is what the API says it is.
            take = response.read_chunked if response.chunked else response.stream
            yield from take(_PIECE_BYTES, decode_content=False)
        except HTTPError as problem:
            raise ConnectionError(str(problem)) from None
        finally:
            response.close()

    def sweep(self) -> None:
        """
        Delete objects of runs whose expiry time has passed. Whether the runs themselves have ended cannot be
        determined.
        """
        try:
            for each in object_cleanup.labelled(self.api, "ConfigMap", self.namespace, RUN_LABEL):
                meta = each["metadata"]
                expires = (meta.get("annotations") or {}).get(EXPIRES, "")
                if expires.isdecimal() and int(expires) < time.time():
                    object_cleanup.delete_run(self.api, self.namespace, meta["labels"][RUN_LABEL], 0, await_late=False)
        except OSError:
            pass  # the next request reports a missing permission or a failing API better


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError):
        return text.decode("utf-8", "replace")
