"""
LeaderWorkerSets in a test's cluster: the kind, and a simulated controller that makes their Pods.

The real controller cannot be installed here: it is built with a Go and with modules that no package registry of this project has. The kind
is real to the API server. Its schema is that of ``tests/data/leaderworkerset-v1.json``, which leaves the Pods open; with
``LONGCTX_LEADER_WORKER_SET_CRD=FILE`` it is the published CustomResourceDefinition in FILE.
"""

import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path

import yaml

from pytest_longctx.launchers.kubernetes.object_cleanup import KINDS, path_of
from pytest_longctx.processes.progress import wait_until

GROUP = "leaderworkerset.x-k8s.io"
DEFINITIONS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FACTS = Path(__file__).parents[2] / "data" / "leaderworkerset-v1.json"
PUBLISHED = os.environ.get("LONGCTX_LEADER_WORKER_SET_CRD")
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition():
    """Return the CustomResourceDefinition: the published one, or one of the project's facts."""
    if PUBLISHED:
        made = yaml.safe_load(Path(PUBLISHED).read_text(encoding="utf-8"))
        return _as_1_20(made)
    spec = json.loads(FACTS.read_text(encoding="utf-8"))["properties"]["spec"]
    schema = {"type": "object", "properties": {"spec": _structural(spec), "status": ANYTHING}}
    names = {"kind": "LeaderWorkerSet", "plural": "leaderworkersets", "singular": "leaderworkerset"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"leaderworkersets.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _structural(schema):
    """Return a JSON schema as an API server takes it: unknown fields are pruned, which replaces additionalProperties."""
    if schema == {"type": "object"}:
        return ANYTHING
    made = {name: value for name, value in schema.items() if name not in ("additionalProperties", "properties")}
    if "enum" in made:
        made["type"] = "string"
    if "properties" in schema:
        made["properties"] = {name: _structural(inner) for name, inner in schema["properties"].items()}
    return made


def _as_1_20(made):
    """Leave out defaults of an empty text, which Kubernetes 1.20 reads as null, and the list keys that rest on them."""
    if isinstance(made, list):
        return [_as_1_20(each) for each in made]
    if not isinstance(made, dict):
        return made
    found = {name: _as_1_20(value) for name, value in made.items() if (name, value) != ("default", "")}
    inner = made.get("items", {}).get("properties", {}) if isinstance(made.get("items"), dict) else {}
    if any(inner.get(key, {}).get("default") == "" for key in made.get("x-kubernetes-list-map-keys", ())):
        del found["x-kubernetes-list-map-keys"], found["x-kubernetes-list-type"]
    return found


@contextmanager
def known(api):
    """Let the API server know the kind."""
    where = path_of("LeaderWorkerSet", "default")
    status, answer = api.call("POST", DEFINITIONS, definition())
    assert status == 201, answer
    assert wait_until(lambda: api.call("GET", where)[0] == 200, timeout_s=30.0)
    yield
    api.call("DELETE", f"{DEFINITIONS}/leaderworkersets.{GROUP}")
    assert wait_until(lambda: api.call("GET", where)[0] == 404, timeout_s=30.0)


class Controller:
    """Makes the Pods of every LeaderWorkerSet, with the names, labels and variables of the real controller."""

    def __init__(self, api):
        self.api, self._stop = api, threading.Event()
        self.made = []
        """Name of every Pod that was made."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join()

    def _run(self):
        done = set()
        while not self._stop.wait(0.1):
            try:
                _, found = self.api.call("GET", f"{KINDS['LeaderWorkerSet'][0]}/leaderworkersets")
            except OSError:
                continue
            for each in found.get("items") or []:
                if each["metadata"]["uid"] not in done:
                    done.add(each["metadata"]["uid"])
                    self._make(each)

    def _make(self, it):
        held = it["spec"]["leaderWorkerTemplate"]
        for index in range(held["size"]):
            template = held["workerTemplate"] if index else held.get("leaderTemplate", held["workerTemplate"])
            pod = self._pod(it, template, index, held["size"])
            status, answer = self.api.call("POST", path_of("Pod", it["metadata"]["namespace"]), pod)
            assert status == 201, answer
            self.made.append(pod["metadata"]["name"])

    @staticmethod
    def _pod(it, template, index, size):
        meta, spec = it["metadata"], json.loads(json.dumps(template["spec"]))
        name = f"{meta['name']}-0" + (f"-{index}" if index else "")
        said = {
            "LWS_LEADER_ADDRESS": f"{meta['name']}-0.{meta['name']}.{meta['namespace']}",
            "LWS_GROUP_SIZE": str(size),
            "LWS_WORKER_INDEX": str(index),
        }
        for box in spec["containers"]:
            box["env"] = [{"name": key, "value": value} for key, value in said.items()] + box.get("env", [])
        sets = "leaderworkerset.sigs.k8s.io"
        labels = {f"{sets}/name": meta["name"], f"{sets}/group-index": "0", f"{sets}/worker-index": str(index)}
        owner = {"apiVersion": it["apiVersion"], "kind": it["kind"], "name": meta["name"], "uid": meta["uid"]}
        labels |= template.get("metadata", {}).get("labels", {})
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": spec,
        }
