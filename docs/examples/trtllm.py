"""TensorRT-LLM's server, as a backend in one file. Its command line follows the documentation of 1.2; it was never run."""

from pytest_longctx.backends import Backend, MetricNames


class TensorRtLlm(Backend):
    """``trtllm-serve`` from the interpreter's environment, on NVIDIA GPUs."""

    name = "trtllm"
    package = "tensorrt_llm"
    distributions = ("tensorrt-llm",)
    host_flag = "--host"
    version_path = "/version"
    # Its usage record names cached tokens only if blocks are reused. Its /metrics are JSON, so the server's counts are not read.
    metrics = MetricNames()

    def argv(self, deployment, python, model, port):
        limit = () if deployment.max_model_len is None else ("--max_seq_len", str(deployment.max_model_len))
        return (
            *(python, "-m", "tensorrt_llm.commands.serve", model),
            *("--port", str(port), "--served_model_name", deployment.model.name),
            *limit,
            *deployment.arguments(),
        )


def pytest_longctx_make_backend(name):
    return TensorRtLlm() if name == "trtllm" else None


def pytest_longctx_names(what):
    return ["trtllm"] if what == "backend" else []
