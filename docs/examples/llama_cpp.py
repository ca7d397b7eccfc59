"""llama.cpp's own server, as a backend in one file: ``pytest -p llama_cpp --backend=llama.cpp``."""

import re
from functools import cached_property
from pathlib import Path

from pytest_longctx.backends import Backend, MetricNames
from pytest_longctx.diagnosis import signatures


class LlamaCpp(Backend):
    """``llama-server`` from PATH, with a GGUF file as model. It accepts token ids."""

    name = "llama.cpp"
    host_flag = "--host"
    key_flag = "--api-key"
    version_path = "/props"
    # Each usage record names its cached tokens, even if there are none.
    names_cached_if_any = True
    metrics = MetricNames(
        running="llamacpp:requests_processing",
        waiting="llamacpp:requests_deferred",
        # The first counter omits what the second counts; the values of several names are added up.
        prompt_tokens=("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        generated_tokens="llamacpp:tokens_predicted_total",
        cached_tokens="llamacpp:prompt_tokens_cached_total",
        prefill_s="llamacpp:prompt_seconds_total",
    )

    @cached_property
    def catalogue(self):
        return signatures.load(Path(__file__).with_suffix(".toml"))

    def argv(self, deployment, python, model, port):
        limit = () if deployment.max_model_len is None else ("--ctx-size", str(deployment.max_model_len))
        return (
            *("llama-server", "--port", str(port)),
            *("--model", model, "--alias", deployment.model.name),
            *limit,
            *("--metrics", "--no-ui"),
            *deployment.arguments(),
        )

    def version_in(self, answer):
        """The number in ``b11434-1a2b3c4``: findings compare versions."""
        build = re.match(r"b?(\d+)", str(answer.get("build_info", "")))
        return build[1] if build else None

    def limit_in(self, row):
        """The context of one slot; the row has no ``max_model_len``."""
        return row.get("meta", {}).get("n_ctx")


def pytest_longctx_make_backend(name):
    return LlamaCpp() if name == "llama.cpp" else None


def pytest_longctx_names(what):
    return ["llama.cpp"] if what == "backend" else []
