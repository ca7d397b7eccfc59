"""
What can be measured, by name: the one place that defines each figure.

A finding bounds these names and no others, so a typo is an error and two figures of one name mean the same thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure: its unit, what it means, and whether a warm prefix cache would falsify it."""

    unit: str
    meaning: str
    cold_only: bool = False


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        # one request, by the client's clock
        "ttft_s": Measure("s", "from the first byte sent to the first chunk with content received", cold_only=True),
        "upload_s": Measure("s", "from the first byte of the request sent to the last"),
        "e2e_s": Measure("s", "from the first byte sent to the end of the answer", cold_only=True),
        "tpot_s": Measure("s", "(last content chunk - first) / (completion tokens - 1)"),
        "itl_p50_s": Measure("s", "median gap between content chunks; a chunk may carry several tokens"),
        "itl_max_s": Measure("s", "longest gap between content chunks"),
        "prefill_tokens_per_s": Measure("tokens/s", "uncached prompt tokens / TTFT", cold_only=True),
        "decode_tokens_per_s": Measure("tokens/s", "1 / TPOT"),
        # one request, by the server's count
        "prompt_tokens": Measure("tokens", "prompt tokens in the server's usage record"),
        "completion_tokens": Measure("tokens", "completion tokens in the server's usage record"),
        "cached_tokens": Measure("tokens", "prompt tokens that came from a cache"),
        "cached_share": Measure("", "cached_tokens / prompt_tokens"),
        "waited_unscheduled_s": Measure(
            "s", "longest stretch in which requests waited, none ran and the cache was empty"
        ),
        "peak_share": Measure(
            "", "share of the hardware's peak that the prefill would have taken; above 1 it is no measurement"
        ),
        # a refusal
        "refusal_status": Measure("", "HTTP status of a refusal; 200 when it came as an event inside the stream"),
        # several requests
        "requests": Measure("requests", "requests sent"),
        "miscounted_prompts": Measure("requests", "requests whose prompt tokens in usage differ from what was sent"),
        "miscounted_answers": Measure(
            "requests", "requests whose completion tokens in usage differ from what was asked"
        ),
        "warm_speedup": Measure("x", "TTFT of a prompt's first reading / TTFT of its second"),
        # a load: many requests at once, by the client's clock from the first byte of the first to the end of the last
        "load_s": Measure("s", "duration of the load"),
        "requests_per_s": Measure("requests/s", "completed requests / duration"),
        "output_tokens_per_s": Measure("tokens/s", "completion tokens counted by the server / duration"),
        "total_tokens_per_s": Measure("tokens/s", "prompt and completion tokens counted by the server / duration"),
        "ttft_mean_s": Measure("s", "mean TTFT of all requests", cold_only=True),
        "ttft_p50_s": Measure("s", "median TTFT of all requests", cold_only=True),
        "ttft_p99_s": Measure("s", "99th percentile of the TTFT of all requests", cold_only=True),
        "tpot_mean_s": Measure("s", "mean TPOT of all requests"),
        "tpot_p50_s": Measure("s", "median TPOT of all requests"),
        "tpot_p99_s": Measure("s", "99th percentile of the TPOT of all requests"),
        "itl_mean_s": Measure("s", "mean gap between content chunks of all requests"),
        "itl_p99_s": Measure("s", "99th percentile of the gaps between content chunks"),
        # a boot
        "boot_s": Measure("s", "from the start of the process to the first generated token"),
        "max_model_len": Measure("tokens", "longest context the server says it serves"),
        "kv_cache_tokens": Measure(
            "tokens", "KV cache size as the engine logs it; its meaning changed between versions"
        ),
        "concurrency": Measure("x", "requests of max_model_len that the KV cache holds at once, as logged"),
        "kv_available_gib": Measure("GiB", "memory left for the KV cache on one device, as logged"),
        "kv_needed_gib": Measure("GiB", "KV cache that one request of max_model_len needs, as the refusal says"),
        "longest_fitting_tokens": Measure("tokens", "longest context that would fit, as the refusal says"),
        "weights_gib": Measure("GiB", "memory of the weights on one device, as logged"),
        "weights_s": Measure("s", "time to load the weights, as logged"),
        "allocation_gib": Measure("GiB", "size of the allocation that failed; the last straw, not always the culprit"),
        "device_gib": Measure("GiB", "memory of the device on which an allocation failed"),
        # a failure, by the engine's or the kernel's own words
        "device_free_gib": Measure("GiB", "memory that was free on that device, as logged"),
        "device_wanted_gib": Measure("GiB", "memory a boot wanted of the device, as its refusal says"),
        "derived_max_model_len": Measure(
            "tokens", "longest context by the model's own configuration, as the refusal says"
        ),
        "warm_up_requests": Measure("requests", "requests of the warm-up that ran out of memory"),
        "allocation_tokens": Measure("tokens", "tokens for which the KV cache had no room"),
        "blocks_needed": Measure("blocks", "blocks that one request of max_model_len needs, as the refusal says"),
        "blocks_available": Measure("blocks", "blocks that the KV cache has, as the refusal says"),
        "step_limit_s": Measure("s", "time limit that one step went over"),
        "sbuf_needed_kib": Measure("KiB", "on-chip memory that a Neuron kernel needs in one partition"),
        "sbuf_limit_kib": Measure("KiB", "on-chip memory that one partition of a Neuron core has"),
        "hbm_limit_gb": Measure("GB", "device memory that a compiled Neuron model may take, as the compiler says"),
        "killed_gib": Measure("GiB", "memory held by the largest process that the host's out-of-memory killer ended"),
        # a refusal, by its text
        "refused_tokens": Measure("tokens", "prompt tokens of a refused request, as the refusal counts them"),
        "refused_answer_tokens": Measure("tokens", "completion tokens that a refused request asked for"),
        "allowed_tokens": Measure("tokens", "longest prompt that would have been admitted, as the refusal says"),
    }
)
