"""Run the server in a Pod of a Kubernetes cluster. The Pod exists for one boot and is removed with the run."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from pytest_longctx.client.server import Server
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.cleanup_process import CleanupProcess
from pytest_longctx.launchers.kubernetes import manifests, object_cleanup
from pytest_longctx.launchers.kubernetes.cluster import Cluster
from pytest_longctx.launchers.kubernetes.manifests import Owner
from pytest_longctx.launchers.kubernetes.object_cleanup import EXPIRES
from pytest_longctx.launchers.kubernetes.pods import Pods
from pytest_longctx.launchers.kubernetes.port_forward import PortForward
from pytest_longctx.launchers.readiness import await_ready


class KubernetesLauncher:
    """Launcher that runs a deployment's image in a cluster, with the official client (extra ``[kubernetes]``)."""

    name = "kubernetes"
    boots = True
    needs_engine = False
    here = False
    contained = True
    leases_devices = False

    def __init__(self, what: str = "") -> None:
        self.namespace = what or None

    @contextmanager
    def up(self, launch: Launch) -> Iterator[Server]:
        """Create the Kubernetes objects, wait until the server is ready, yield it, and leave no object behind."""
        one, model = launch.deployment, str(launch.model)
        run_id, key = secrets.token_hex(16), secrets.token_urlsafe(24)
        made = manifests.recipe(launch.backend, one, model)
        manifests.render(launch.backend, one, model)  # errors in the deployment are raised before any object is created
        cluster = Cluster(self.namespace)
        log = launch.logs / f"{one.name}-{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        again = f"longctx render {one.name} --namespace={cluster.namespace} | kubectl apply -f -"
        headers = {"Authorization": f"Bearer {key}"} if manifests.has_key(made) else {}
        with ExitStack() as stack:
            words = (cluster.namespace, run_id)
            cleanup = stack.enter_context(CleanupProcess(object_cleanup.__file__, *words, isolation="-P"))
            cluster.sweep()
            service = self._make(cluster, launch, run_id, key)
            pods = Pods(cluster, run_id, log, again, (key,))
            try:
                pods.await_start(launch)
                url, reached = f"http://{service}.{cluster.namespace}.svc:{made.port}", "in-cluster"
                if not cluster.api.inside:
                    leader = pods.seen.leader or ""
                    forward = stack.enter_context(PortForward(cluster.api, cluster.namespace, leader, made.port))
                    url, reached = f"http://127.0.0.1:{forward.port}", "port-forward"
                hoped = launch.server_at(url, self, headers=headers)
                server = await_ready(pods, launch, hoped, boot_s=made.boot_s)
                where = {"image": pods.seen.image, "node": pods.seen.node, "reached": reached}
                yield replace(server, words={**server.words, **where}, ended=pods.ended)
            finally:
                cleanup.finish(all_created=not pods.lost)
                pods.close()

    def _make(self, cluster: Cluster, launch: Launch, run_id: str, key: str) -> str:
        """
        Create all objects of the run, the owner first, and return the name that the objects share. Raises
        `LaunchError`.
        """
        one = launch.deployment
        name, mine = manifests.name_of(one, run_id), Owner(cluster.namespace, run_id)
        expires = {EXPIRES: str(round(time.time() + one.kubernetes.hours * 3600))}
        meta = {**manifests.metadata(name, mine), "annotations": expires}
        owner = cluster.make({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})["metadata"]
        theirs = replace(
            mine, reference={"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": str(owner["uid"])}
        )
        hidden = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": manifests.metadata(manifests.key_secret(name), theirs),
            "stringData": {manifests.KEY_IN_SECRET: key},
        }
        for each in (hidden, *manifests.render(launch.backend, one, str(launch.model), theirs)):
            cluster.make(each)
        return name
