"""SGLang's HTTP server."""

from pytest_longctx.backends import Backend, MetricNames
from pytest_longctx.deployment import Deployment


class Sglang(Backend):
    """SGLang on NVIDIA GPUs, asked through its OpenAI-compatible endpoint, which takes token ids."""

    name = "sglang"
    package = "sglang"
    distributions = ("sglang",)
    # /health answers 503 while a long chunk is prefilled, which is no failure; it is only asked before the first request.
    health = "/health"
    version_path = None
    metrics = MetricNames(
        running="sglang:num_running_reqs",
        waiting="sglang:num_queue_reqs",
        kv_usage="sglang:token_usage",
        cached_tokens="sglang:cached_tokens_total",
        generated_tokens="sglang:generation_tokens_total",
    )

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        limit = () if deployment.max_model_len is None else ("--context-length", str(deployment.max_model_len))
        return (
            *(python, "-m", "sglang.launch_server"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--model-path", model, "--served-model-name", deployment.model.name),
            *limit,
            *("--enable-metrics", "--enable-cache-report"),
            *deployment.arguments(),
        )
