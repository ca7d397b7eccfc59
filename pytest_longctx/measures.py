"""
Definitions of all measured figures, by name.

A finding bounds only these names, so a typo is an error, and figures of one name are comparable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure: its unit, its meaning, and whether a warm prefix cache would falsify it."""

    unit: str
    meaning: str
    cold_only: bool = False


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        # one request, by the client's clock
        "ttft_s": Measure("s", "from sending the first byte to receiving the first chunk with content", cold_only=True),
        "upload_s": Measure("s", "from sending the first byte of the request to sending its last byte"),
        "e2e_s": Measure("s", "from sending the first byte to the end of the answer", cold_only=True),
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
        "server_cached_tokens": Measure(
            "tokens", "growth of the server's counter of prompt tokens from its own prefix cache"
        ),
        "transferred_tokens": Measure(
            "tokens", "prompt tokens whose KV cache a prefill role computed for the request and sent"
        ),
        "server_ttft_s": Measure("s", "TTFT by the server's clock, from its receipt of the request", cold_only=True),
        "ttft_gap_s": Measure("s", "TTFT - upload - the server's TTFT: transport and parsing"),
        "host_load": Measure(
            "",
            "runnable processes on the client's machine / its cores: the average of the last minute, or the present number "
            "if that is higher",
        ),
        "queue_s": Measure("s", "time the request waited for the scheduler, by the server's clock"),
        "server_prefill_s": Measure("s", "from the first schedule to the first token, by the server's clock"),
        "waited_unscheduled_s": Measure(
            "s", "longest stretch in which requests waited, none ran and no other figure of the server changed"
        ),
        "kv_usage_peak": Measure(
            "", "highest share of the KV cache in use until the first token, sampled once a second"
        ),
        "peak_share": Measure(
            "", "share of the hardware's peak that the prefill implies; above 1 the measurement is invalid"
        ),
        # retrieval over the context
        "needles": Measure("needles", "facts in the prompt that the question asks for"),
        "needles_right": Measure("needles", "facts answered correctly"),
        "needles_share": Measure("", "needles_right / needles"),
        "ruler_prompts": Measure("requests", "prompts of a task of RULER"),
        "ruler_score": Measure(
            "", "mean published score of the answers to a task of RULER, 1 where it is published as 100"
        ),
        "ruler_score_low": Measure("", "lower end of the 95 % interval of ruler_score (Clopper-Pearson)"),
        "ruler_score_high": Measure("", "upper end of the 95 % interval of ruler_score"),
        "empty_answers": Measure("requests", "answers without any text"),
        "continuations": Measure("", "sentences to be continued"),
        "continuations_right": Measure("", "sentences continued with the expected words"),
        "first_failed_depth": Measure(
            "", "place of the first needle that failed, 0 the start of the context, 1 its end"
        ),
        "last_failed_depth": Measure("", "place of the last needle that failed"),
        "made_up_answers": Measure(
            "needles", "answers about a key that is not in the prompt, or about another key than the requested one"
        ),
        "repetitive_answers": Measure("requests", "answers that repeat one phrase at least three times in a row"),
        "kv_mantissa_bits": Measure("bits", "mantissa bits of a key preserved in the KV cache: BF16 7, E4M3 3, E5M2 2"),
        "kv_ladder_breaks": Measure(
            "bits",
            "rungs preserved above a lost one; above 0, keys are read back with other values",
        ),
        "kv_relative_step": Measure("", "2^-kv_mantissa_bits: the step between numbers just above 1"),
        "kv_bits_beyond": Measure(
            "bits",
            "kv_mantissa_bits - mantissa bits of the KV-cache dtype; above 0 the dtype is ignored, below 0 the cache is coarser",
        ),
        "longest_served_tokens": Measure("tokens", "longest prompt served together with its answer"),
        "context_tokens": Measure(
            "tokens", "served context of a certificate: the prompt, plus the answer if the limit includes the answer"
        ),
        "read_tokens": Measure(
            "tokens", "longest natural text that the model read completely, according to a certificate"
        ),
        "broken_checks": Measure("", "checks of a certificate that are broken"),
        "held_checks": Measure("", "checks of a certificate that hold"),
        "claim_shortfall_tokens": Measure("tokens", "max_model_len - answer - longest prompt that was served"),
        "tries": Measure("requests", "requests or boots needed by a search"),
        # a request without a complete answer
        "health_status": Measure("", "HTTP status of the server's health after a request without a complete answer"),
        "recovered": Measure("", "1: a small request sent afterwards was answered; 0: it was not"),
        "canary_s": Measure("s", "from the first byte of that small request to the end of its answer"),
        # a refusal
        "refusal_status": Measure("", "HTTP status of a refusal; 200 if it arrived as an event inside the stream"),
        # several requests
        "requests": Measure("requests", "requests sent"),
        "miscounted_prompts": Measure(
            "requests", "requests whose prompt tokens in `usage` differ from the sent tokens"
        ),
        "miscounted_answers": Measure(
            "requests", "requests whose completion tokens in `usage` differ from the requested tokens"
        ),
        "ledger_gap_tokens": Measure(
            "tokens", "difference between the growth of the server's counters and the sent and requested tokens"
        ),
        "cached_share_before": Measure("", "cached_share of the same prompt before the cache reset"),
        "answers_changed": Measure(
            "requests", "answers that differ from the cold answer to the same prompt, at temperature 0"
        ),
        "warm_speedup": Measure("x", "TTFT of a prompt / TTFT of its repetition"),
        "reused_share": Measure(
            "",
            "least share of the previous turn that was cached, over all later turns of a conversation",
        ),
        "turn_speedup": Measure(
            "x", "TTFT of a conversation's first turn / median TTFT of its later ones", cold_only=True
        ),
        # a path of a KV cache, against cold readings of the same prompts
        "logprob_noise_nats": Measure(
            "nats",
            "largest difference of a log-probability between cold readings of one prompt, alone and beside other requests",
        ),
        "logprob_gap_nats": Measure(
            "nats",
            "largest difference of a log-probability between a path and the nearest cold reading of the same prompt",
        ),
        "logprob_excess_nats": Measure(
            "nats", "logprob_gap_nats above the limit for rounding: 0.1, or four times logprob_noise_nats"
        ),
        "hit_share": Measure(
            "", "of the whole blocks that a prompt shares with an earlier one, the least share that came from the cache"
        ),
        "foreign_tokens": Measure(
            "tokens", "most cached tokens beyond what a prompt shares with earlier ones of the same salt"
        ),
        "external_tokens": Measure("tokens", "growth of the counter of prompt tokens from a cache outside the engine"),
        "preemptions": Measure("requests", "growth of the counter of requests that lost their KV cache while they ran"),
        "answered_at_once": Measure(
            "answers", "answers in progress at one time, each from its first token to its last"
        ),
        "arrived_during_answer": Measure("requests", "prompts read while another request was answered"),
        "ended_during_answer": Measure("requests", "answers that ended while another continued"),
        "cancelled_during_answer": Measure(
            "requests", "clients that disconnected during their answer while other answers continued"
        ),
        "prefill_steps": Measure("steps", "different KV cache usages observed while a prompt was read"),
        "drafted_tokens": Measure("tokens", "growth of the counter of tokens that speculative decoding proposed"),
        "accepted_tokens": Measure("tokens", "growth of the counter of proposed tokens that were accepted"),
        "corrupted_requests": Measure("requests", "growth of the counter of requests whose logits had NaNs"),
        "kv_canary_violations": Measure(
            "slots", "KV cache slots that the engine's own canary has reported as corrupted since the start"
        ),
        # the predictions of a model on two servers, for the same texts
        "drift_nats": Measure(
            "nats",
            "mean over positions of a lower bound of the KL divergence of two deployments' predictions, from the reference",
        ),
        "drift_p999_nats": Measure("nats", "99.9th percentile over positions of the same bound"),
        "drift_noise_nats": Measure(
            "nats", "drift_nats between two reads of the reference, alone and beside other requests"
        ),
        "drift_noise_p999_nats": Measure("nats", "99.9th percentile over positions of the same bound"),
        "drift_ratio": Measure("x", "drift_nats / drift_noise_nats, where the noise is at least 1e-9 nats"),
        "argmax_changed_share": Measure(
            "", "share of positions whose most probable token differs from that of the reference"
        ),
        "argmax_noise_share": Measure("", "the same between two reads of the reference"),
        "text_lost_nats": Measure(
            "nats", "mean log-probability of the texts' own tokens by the reference - that by the other deployment"
        ),
        "unnamed_share": Measure(
            "",
            "mean probability, by the reference, of tokens that only one deployment named among its most probable ones",
        ),
        "drift_positions": Measure("tokens", "positions whose predictions were compared, each in several reads"),
        "drift_repeats": Measure("runs", "comparisons of two reads of the reference with two of the other deployment"),
        "drift_repeats_apart": Measure("runs", "drift_repeats in which the drift was more than three times the noise"),
        # one prompt in changing company, to the last bit
        "answers_compared": Measure(
            "answers", "answers to one prompt that were compared with the first, which was alone"
        ),
        "answers_differing": Measure("answers", "answers_compared with a different token"),
        "logprobs_differing": Measure("answers", "answers_compared with a different token or log-probability"),
        "repeat_gap_nats": Measure(
            "nats", "largest difference of a log-probability, up to the first token that differs"
        ),
        "first_differing_token": Measure("", "first token of an answer that differs, from 0"),
        "first_differing_logprob": Measure("", "first token of an answer with a different log-probability, from 0"),
        "hits_taken": Measure(
            "answers", "of two answers after a prefix-cache hit, those whose usage has cached tokens"
        ),
        # the same question several times, or at several lengths
        "runs": Measure("runs", "repetitions whose median is judged"),
        "ttft_spread": Measure("", "(longest TTFT - shortest) / median"),
        "decode_spread": Measure("", "(highest decode rate - lowest) / median"),
        "law_linear_s": Measure(
            "s", "a of TTFT = a N + b N^2 over a ladder of lengths, N in millions of tokens", cold_only=True
        ),
        "law_quadratic_s": Measure(
            "s", "b in the same formula: the quadratic term, the cost of attention over the context", cold_only=True
        ),
        "law_error": Measure(
            "", "largest relative difference between a measurement and the fitted formula", cold_only=True
        ),
        # a load of concurrent requests, by the client's clock from the first byte of the first to the end of the last
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
        "good_share": Measure("", "share of requests whose TTFT and TPOT met the finding's targets", cold_only=True),
        "goodput_per_s": Measure("requests/s", "requests that met the finding's targets / duration", cold_only=True),
        "send_delay_max_s": Measure(
            "s",
            "largest delay of a request of an open-loop client; it is part of that request's TTFT",
        ),
        "offered_share": Measure("", "rate at which an open-loop client sent its requests / the requested rate"),
        # a client that disconnects during prefill, and a small request after it
        "abandoned_s": Measure("s", "from the first byte of the abandoned prompt sent to the disconnect"),
        "abandoned_tokens": Measure(
            "tokens",
            "tokens of the abandoned prompt that the server counted: growth of its counter less the small request's tokens",
        ),
        "stopped_s": Measure(
            "s",
            "from the disconnect until the gauges show no more requests than before and the counters stop growing, "
            "including the small request",
        ),
        "canary_usual_s": Measure("s", "median TTFT of three small requests before the abandoned prompt"),
        "canary_delay_s": Measure("s", "TTFT of the small request after the disconnect - canary_usual_s"),
        # an evaluation scored by lm-eval
        "accuracy_strict": Measure("", "share of questions with a correct answer in the requested format"),
        "accuracy_strict_stderr": Measure("", "standard error of accuracy_strict, of the sample of questions"),
        "accuracy_flexible": Measure("", "share of questions in whose answer the last number is correct"),
        "accuracy_flexible_stderr": Measure("", "standard error of accuracy_flexible, of the sample of questions"),
        # a boot
        "boot_s": Measure("s", "from the start of the process to the first generated token"),
        "max_model_len": Measure("tokens", "longest context the server lists"),
        "kv_cache_tokens": Measure(
            "tokens", "KV cache size as logged; the meaning of this value differs between engine versions"
        ),
        "capacity_ratio": Measure(
            "x", "kv_cache_tokens of one deployment / those of a deployment that differs in one flag"
        ),
        "concurrency": Measure("x", "requests of max_model_len that the KV cache holds at once, as logged"),
        "kv_available_gib": Measure("GiB", "memory left for the KV cache on one device, as logged"),
        "kv_needed_gib": Measure("GiB", "KV cache that one request of max_model_len needs, from the refusal"),
        "longest_fitting_tokens": Measure("tokens", "longest context that would fit, from the refusal"),
        "weights_gib": Measure("GiB", "memory of the weights on one device, as logged"),
        "weights_s": Measure("s", "time to load the weights, as logged"),
        "allocation_gib": Measure("GiB", "size of the failed allocation, which is not always the cause"),
        "device_gib": Measure("GiB", "memory of the device of the failed allocation"),
        # a boot or a request, measured on the machine
        "device_peak_gib": Measure("GiB", "peak memory in use on one device, sampled once a second"),
        "device_busy_share": Measure(
            "", "mean device utilisation as reported by the devices, from at least five samples"
        ),
        "host_peak_gib": Measure(
            "GiB", "peak sum of the resident memory of the server's processes; shared pages count for each process"
        ),
        # a published figure, by arithmetic
        "logged_tokens_per_s": Measure("tokens/s", "highest prompt throughput logged during a request"),
        "log_rate_ratio": Measure("x", "logged_tokens_per_s / prefill_tokens_per_s of the same request"),
        "log_window_s": Measure(
            "s",
            "prompt tokens / logged rate. A value of 10 s means that the rate is an average over vLLM's 10 s log interval, so "
            "it is not a throughput",
        ),
        "kv_gib": Measure("GiB", "KV cache of the context in all layers, from the model's shape"),
        "kv_gib_per_s": Measure("GiB/s", "KV cache of the context / the claimed time to store or load it"),
        "kv_claim_ratio": Measure("x", "claimed KV cache / KV cache from the model's shape"),
        "kv_rate_claim_ratio": Measure("x", "claimed KV transfer rate / rate from claimed size and time"),
        "weights_claim_ratio": Measure("x", "claimed weights on one device / all parameters in BF16 / devices"),
        "speedup_claim_ratio": Measure("x", "claimed speed-up / the ratio of the claimed times"),
        "largest_claim_ratio": Measure("x", "claimed largest value of a number format / its largest value"),
        # a failure, from the message of the engine or the kernel
        "device_free_gib": Measure("GiB", "free memory of that device, as logged"),
        "device_wanted_gib": Measure("GiB", "device memory requested by a boot, from the refusal"),
        "derived_max_model_len": Measure("tokens", "longest context in the model's configuration, from the refusal"),
        "warm_up_requests": Measure("requests", "number of requests in the warm-up that ran out of memory"),
        "allocation_tokens": Measure("tokens", "tokens that did not fit into the KV cache"),
        "blocks_needed": Measure("blocks", "KV blocks that one request of max_model_len needs, from the refusal"),
        "blocks_available": Measure("blocks", "blocks of the KV cache, from the refusal"),
        "step_limit_s": Measure("s", "time limit that one step exceeded"),
        "sbuf_needed_kib": Measure("KiB", "on-chip memory that a Neuron kernel needs in one partition"),
        "sbuf_limit_kib": Measure("KiB", "on-chip memory that one partition of a Neuron core has"),
        "hbm_limit_gb": Measure("GB", "device memory limit of a compiled Neuron model, from the compiler"),
        "max_num_seqs": Measure("requests", "limit of concurrent requests with which the engine was started"),
        "mamba_blocks": Measure("blocks", "available Mamba state blocks"),
        "host_wanted_gib": Measure("GiB", "size of a failed allocation of host memory"),
        "host_free_gib": Measure("GiB", "free host memory"),
        "shm_gib": Measure("GiB", "size of a refused shared-memory segment"),
        "collective_ms": Measure("ms", "time a collective operation had run when it timed out"),
        "warm_up_tokens": Measure("tokens", "prompt tokens of a warm-up"),
        "killed_gib": Measure("GiB", "memory of the largest process killed by the host's out-of-memory killer"),
        # a refusal, from its text
        "port": Measure("no.", "TCP port that another process listens on, from the refusal"),
        "attention_heads": Measure("", "attention heads of the model, from the refusal of a parallel size"),
        "parallel_size": Measure("", "requested tensor-parallel size, from its refusal"),
        "slots_free": Measure("", "free rows of the table of running requests, from the refusal"),
        "slots_wanted": Measure("", "rows of that table that a batch requested, from the refusal"),
        "kernel_needed": Measure(
            "", "bytes of shared memory, or registers or threads, that a kernel needs, from its refusal"
        ),
        "kernel_limit": Measure("", "bytes of shared memory, or registers or threads, that the GPU has for it"),
        "workspace_needed_gib": Measure(
            "GiB", "part of a workspace that an attention library requested, from the error message"
        ),
        "workspace_gib": Measure("GiB", "free part of that workspace"),
        "refused_tokens": Measure("tokens", "prompt tokens of a refused request, from the refusal"),
        "refused_answer_tokens": Measure("tokens", "completion tokens requested by a refused request"),
        "allowed_tokens": Measure("tokens", "longest admissible prompt, from the refusal"),
    }
)
