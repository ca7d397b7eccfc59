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
        # one request, by the server's counters: the second ledger
        "server_prompt_tokens": Measure("tokens", "growth of the server's counter of prompt tokens"),
        "server_completion_tokens": Measure("tokens", "growth of the server's counter of generated tokens"),
        "server_ttft_s": Measure("s", "TTFT by the server's clock, from its receipt of the request", cold_only=True),
        "ttft_gap_s": Measure("s", "TTFT - upload - the server's TTFT: transport and parsing, which neither is"),
        "queue_s": Measure("s", "time the request waited for the scheduler, by the server's clock"),
        "server_prefill_s": Measure("s", "from the first schedule to the first token, by the server's clock"),
        "waited_unscheduled_s": Measure(
            "s", "longest stretch in which requests waited, none ran and no other figure of the server moved"
        ),
        "peak_share": Measure(
            "", "share of the hardware's peak that the prefill would have taken; above 1 it is no measurement"
        ),
        # answers about the far past
        "needles": Measure("needles", "facts that were planted and asked for"),
        "needles_right": Measure("needles", "facts that were answered right"),
        "needles_share": Measure("", "needles_right / needles"),
        "first_failed_depth": Measure(
            "", "place of the first needle that failed, 0 the start of the context, 1 its end"
        ),
        "last_failed_depth": Measure("", "place of the last needle that failed"),
        "made_up_answers": Measure("needles", "answers to a key that was not planted, or to another than was asked"),
        "repetitive_answers": Measure("requests", "answers that say one phrase three times in a row or more"),
        "kv_mantissa_bits": Measure(
            "bits", "mantissa bits of a key that came back out of the KV cache: BF16 7, E4M3 3, E5M2 2"
        ),
        "kv_ladder_breaks": Measure(
            "bits",
            "rungs of the ladder that were kept above one that was lost; above 0 keys come back as other numbers",
        ),
        "kv_relative_step": Measure("", "2^-kv_mantissa_bits: the step between numbers just above 1"),
        "longest_served_tokens": Measure("tokens", "longest prompt that was served beside its answer"),
        "claim_shortfall_tokens": Measure("tokens", "max_model_len - answer - longest prompt that was served"),
        "tries": Measure("requests", "requests or boots that a search took"),
        # a request that came to nothing
        "health_status": Measure("", "HTTP status of the server's health after a request that came to nothing"),
        "recovered": Measure("", "1: a small request after it was answered; 0: it was not"),
        "canary_s": Measure("s", "from the first byte of that small request to the end of its answer"),
        # a refusal
        "refusal_status": Measure("", "HTTP status of a refusal; 200 when it came as an event inside the stream"),
        # several requests
        "requests": Measure("requests", "requests sent"),
        "miscounted_prompts": Measure("requests", "requests whose prompt tokens in usage differ from what was sent"),
        "miscounted_answers": Measure(
            "requests", "requests whose completion tokens in usage differ from what was asked"
        ),
        "ledger_gap_tokens": Measure(
            "tokens", "tokens by which the growth of the server's counters differs from what was sent and asked"
        ),
        "cached_share_before": Measure("", "cached_share of the same prompt's reading before the cache was emptied"),
        "warm_speedup": Measure("x", "TTFT of a prompt's first reading / TTFT of its second"),
        "reused_share": Measure(
            "",
            "least share, over the turns of a conversation after the first, of the turn before that was cached tokens",
        ),
        "turn_speedup": Measure(
            "x", "TTFT of a conversation's first turn / median TTFT of its later ones", cold_only=True
        ),
        # the same question several times, or at several lengths
        "runs": Measure("runs", "readings of which the median is judged"),
        "ttft_spread": Measure("", "(longest TTFT - shortest) / median"),
        "law_linear_s": Measure(
            "s", "a of TTFT = a N + b N^2 over a ladder of lengths, N in millions of tokens", cold_only=True
        ),
        "law_quadratic_s": Measure("s", "b of the same law: what grows with the context", cold_only=True),
        "law_error": Measure("", "largest part by which a reading misses the fitted law", cold_only=True),
        # a load: many requests at once, by the client's clock from the first byte of the first to the end of the last
        "load_s": Measure("s", "duration of the load"),
        "requests_per_s": Measure("requests/s", "completed requests / duration"),
        "output_tokens_per_s": Measure("tokens/s", "completion tokens counted by the server / duration"),
        "total_tokens_per_s": Measure("tokens/s", "prompt and completion tokens counted by the server / duration"),
        "ttft_mean_s": Measure("s", "mean TTFT of all requests", cold_only=True),
        "ttft_p50_s": Measure("s", "median TTFT of all requests", cold_only=True),
        "ttft_p90_s": Measure("s", "90th percentile of the TTFT of all requests", cold_only=True),
        "ttft_p99_s": Measure("s", "99th percentile of the TTFT of all requests", cold_only=True),
        "tpot_mean_s": Measure("s", "mean TPOT of all requests"),
        "tpot_p50_s": Measure("s", "median TPOT of all requests"),
        "tpot_p90_s": Measure("s", "90th percentile of the TPOT of all requests"),
        "tpot_p99_s": Measure("s", "99th percentile of the TPOT of all requests"),
        "itl_mean_s": Measure("s", "mean gap between content chunks of all requests"),
        "itl_p90_s": Measure("s", "90th percentile of the gaps between content chunks"),
        "itl_p99_s": Measure("s", "99th percentile of the gaps between content chunks"),
        "good_share": Measure("", "share of requests whose TTFT and TPOT met the finding's goals", cold_only=True),
        "goodput_per_s": Measure("requests/s", "requests that met the finding's goals / duration", cold_only=True),
        "send_delay_max_s": Measure(
            "s",
            "most by which the client of an open loop sent a request later than due; it is part of that request's TTFT",
        ),
        # a client that goes away while its prompt is read, and a small request after it
        "abandoned_s": Measure("s", "from the first byte of the abandoned prompt sent to the disconnect"),
        "abandoned_tokens": Measure(
            "tokens",
            "tokens of the abandoned prompt that the server counted: growth of its counter after all, less the small request's",
        ),
        "stopped_s": Measure(
            "s",
            "from the disconnect to gauges with no more running and waiting requests than before, and counters that stand still, "
            "the small one's time included",
        ),
        "canary_usual_s": Measure("s", "median TTFT of three small requests before"),
        "canary_delay_s": Measure("s", "TTFT of the small request after the disconnect - canary_usual_s"),
        # an evaluation: questions answered right out of all, as lm-eval scores them
        "accuracy_strict": Measure("", "share of questions whose answer is right and in the form asked for"),
        "accuracy_strict_stderr": Measure("", "standard error of accuracy_strict, of the sample of questions"),
        "accuracy_flexible": Measure("", "share of questions of whose answer the last number is right"),
        "accuracy_flexible_stderr": Measure("", "standard error of accuracy_flexible, of the sample of questions"),
        # a boot
        "boot_s": Measure("s", "from the start of the process to the first generated token"),
        "max_model_len": Measure("tokens", "longest context the server says it serves"),
        "kv_cache_tokens": Measure(
            "tokens", "KV cache size as the engine logs it; its meaning changed between versions"
        ),
        "capacity_ratio": Measure("x", "kv_cache_tokens of one deployment / those of another that differs in one flag"),
        "concurrency": Measure("x", "requests of max_model_len that the KV cache holds at once, as logged"),
        "kv_available_gib": Measure("GiB", "memory left for the KV cache on one device, as logged"),
        "kv_needed_gib": Measure("GiB", "KV cache that one request of max_model_len needs, as the refusal says"),
        "longest_fitting_tokens": Measure("tokens", "longest context that would fit, as the refusal says"),
        "weights_gib": Measure("GiB", "memory of the weights on one device, as logged"),
        "weights_s": Measure("s", "time to load the weights, as logged"),
        "allocation_gib": Measure("GiB", "size of the allocation that failed; the last straw, not always the culprit"),
        "device_gib": Measure("GiB", "memory of the device on which an allocation failed"),
        # a boot or a request, by the machine's own count
        "device_peak_gib": Measure("GiB", "most memory in use on one device, looked at once a second"),
        "device_busy_share": Measure(
            "", "mean share of the time in which the devices had work, by their own count; from five looks at least"
        ),
        "host_peak_gib": Measure(
            "GiB", "most resident memory of the server's processes, added up: shared pages count for each of them"
        ),
        # a published figure, by arithmetic
        "logged_tokens_per_s": Measure("tokens/s", "highest prompt throughput that the engine's log gives a request"),
        "log_rate_ratio": Measure("x", "logged_tokens_per_s / prefill_tokens_per_s of the same request"),
        "log_window_s": Measure("s", "prompt tokens / a logged rate; 10 s is the window of vLLM's log, not a time"),
        "kv_gib": Measure("GiB", "KV cache of the context in all layers, by the model's shape"),
        "kv_gib_per_s": Measure("GiB/s", "that KV cache / the claimed time to store or load it"),
        "kv_claim_ratio": Measure("x", "claimed KV cache / the shape's"),
        "kv_rate_claim_ratio": Measure("x", "claimed rate of moving the KV cache / the rate its size and time give"),
        "weights_claim_ratio": Measure("x", "claimed weights on one device / all parameters in BF16 / devices"),
        "speedup_claim_ratio": Measure("x", "claimed speed-up / the ratio of the claimed times"),
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
        "max_num_seqs": Measure("requests", "requests at once that the engine was told to serve"),
        "mamba_blocks": Measure("blocks", "Mamba state blocks that there are"),
        "host_wanted_gib": Measure("GiB", "host memory that was asked for at once"),
        "host_free_gib": Measure("GiB", "host memory that was free"),
        "shm_gib": Measure("GiB", "shared memory segment that was refused"),
        "collective_ms": Measure("ms", "how long a collective had run when it was given up"),
        "warm_up_tokens": Measure("tokens", "prompt tokens of a warm-up"),
        "killed_gib": Measure("GiB", "memory held by the largest process that the host's out-of-memory killer ended"),
        # a refusal, by its text
        "refused_tokens": Measure("tokens", "prompt tokens of a refused request, as the refusal counts them"),
        "refused_answer_tokens": Measure("tokens", "completion tokens that a refused request asked for"),
        "allowed_tokens": Measure("tokens", "longest prompt that would have been admitted, as the refusal says"),
    }
)
