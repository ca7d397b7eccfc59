"""What was seen of a server: the evidence a verdict rests on. ``None`` means not observed, never zero."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Outcome = Literal[
    "serves",
    "refuses",
    "runs out of memory",
    "asserts",
    "dies",
    "fails",
    "disconnects",
    "hangs",
    "is not admitted",
    "overcommits",
    "adds up",
    "cannot be",
    "is sound",
    "is flagged",
]
"""
What a server was seen to do. ``asserts``: it stopped on a failed assertion or another program error of a known kind;
``dies``: it stopped in any other way, for a cause that is known or for none; ``fails``: it answered with an error of its own,
HTTP 5xx, and went on; ``overcommits``: it came up with a KV cache that cannot hold one request of the context it claims;
``adds up`` and ``cannot be`` are said of published and of logged figures, ``is sound`` and ``is flagged`` of published command
lines, not of servers.
"""

Kind = Literal[
    "gpu-oom",
    "gpu-oom-weights",
    "gpu-oom-profile",
    "gpu-oom-kv",
    "gpu-oom-graphs",
    "gpu-oom-tables",
    "gpu-oom-request",
    "kv-cache-too-small",
    "dirty-gpu",
    "host-oom",
    "killed",
    "child-died",
    "dead-engine",
    "config",
    "bad-flag",
    "model-missing",
    "engine-missing",
    "port-taken",
    "fp8-assertion",
    "fp8-refused",
    "backend-unavailable",
    "kernel-limit",
    "compile",
    "device",
    "step-timeout",
    "hang",
    "hang-workers",
    "hang-admission",
    "over-length",
    "truncated",
    "proxy",
    "server-error",
    "too-slow",
    "not-asked",
    "gpu-oom-compile",
    "mamba-blocks",
    "connector-hybrid",
    "gpu-fault",
    "gpu-hardware",
    "segfault",
    "wrong-build",
    "fp8-no-device",
    "dtype-no-device",
    "driver-too-old",
    "collective-hang",
    "load-timeout",
    "kv-transfer",
    "kv-corruption",
    "nan-logits",
    "shm-full",
    "disk-full",
    "permission",
    "hub-denied",
    "hub-offline",
    "model-config",
    "model-unsupported",
    "tokenizer-missing",
    "weights-corrupt",
    "environment",
    "toolchain-missing",
    "unknown",
]
"""The class of a failure: what went wrong, whatever engine it went wrong in. A closed set; see `KINDS`."""

KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "gpu-oom": "GPU memory ran out; the log does not say over what",
        "gpu-oom-weights": "GPU memory ran out while the weights were loaded",
        "gpu-oom-profile": "GPU memory ran out in the trial run that measures what is left, or in a warm-up",
        "gpu-oom-kv": "GPU memory ran out while the KV cache was allocated; something outside it had taken its room",
        "gpu-oom-graphs": "GPU memory ran out while CUDA graphs were captured",
        "gpu-oom-tables": "GPU memory ran out over a table with a row for each request and a column for each token",
        "gpu-oom-request": "GPU memory or the KV cache ran out under a request",
        "kv-cache-too-small": "the engine refused: its KV cache would not hold what it was told to serve",
        "dirty-gpu": "another process holds the GPU's memory",
        "host-oom": "the host's memory ran out, and its kernel ended a process, or refused it memory",
        "killed": "a signal from outside ended it; no sign that memory was the reason",
        "child-died": "a child process ended; its own words, if any, are the cause",
        "dead-engine": "the engine was dead already when it was asked",
        "config": "the configuration contradicts itself, or the model's own",
        "bad-flag": "this version does not know a flag, or not its value",
        "model-missing": "the model, or a file of it, cannot be had",
        "engine-missing": "the interpreter has no such engine",
        "port-taken": "somebody else listens on its port",
        "fp8-assertion": "an assertion about the KV cache's FP8 dtype failed",
        "fp8-refused": "the KV cache's FP8 dtype is refused",
        "backend-unavailable": "no attention backend can do what was asked",
        "kernel-limit": "a kernel's own limit on sizes, which no memory would lift",
        "compile": "the compiler failed",
        "device": "the accelerator or its runtime could not be used",
        "step-timeout": "one step took longer than the engine allows",
        "hang": "no answer, and no reason given",
        "hang-workers": "no answer, and the workers did not react",
        "hang-admission": "requests waited and none was ever scheduled",
        "over-length": "the request is longer than what is served",
        "truncated": "the request was cut to fit",
        "proxy": "something between client and server answered in its place",
        "server-error": "it answers with an error of its own, HTTP 5xx, and goes on",
        "too-slow": "the time that was given ended while it was still at work: nothing is said of it",
        "not-asked": "the question could not be asked, which is an error of the set-up: nothing is said of it",
        "gpu-oom-compile": "the compiler refused what would not fit the device's memory",
        "mamba-blocks": "there are fewer Mamba state blocks than requests at once",
        "connector-hybrid": "the KV connector does not support a model with several kinds of KV cache",
        "gpu-fault": "a GPU kernel faulted: an illegal access, a hardware exception, a failed launch",
        "gpu-hardware": "the GPU reports a fault of its hardware",
        "segfault": "native code crashed",
        "wrong-build": "this build has no code for this GPU or processor",
        "fp8-no-device": "the GPU has not this FP8 type",
        "dtype-no-device": "the GPU has not this data type",
        "driver-too-old": "the GPU's driver is too old for this build",
        "collective-hang": "a collective operation of several processes did not end",
        "load-timeout": "loading took longer than the engine allows",
        "kv-transfer": "the KV cache could not be handed from one instance to another",
        "kv-corruption": "what is in the KV cache is not what was written",
        "nan-logits": "the numbers that the model computes are none",
        "shm-full": "shared memory (/dev/shm) is full",
        "disk-full": "a file system is full",
        "permission": "a file or folder may not be written or read",
        "hub-denied": "the model hub does not give the model to this account",
        "hub-offline": "the model is not here, and the hub cannot or may not be reached",
        "model-config": "the model's configuration is missing, damaged, or not what the engine reads",
        "model-unsupported": "this version does not know the model's architecture",
        "tokenizer-missing": "the tokenizer, or a package it needs, cannot be had",
        "weights-corrupt": "a file of weights is damaged or not the model's",
        "environment": "a package of the interpreter is missing, or built against another version",
        "toolchain-missing": "a compiler that is needed at run time is missing or does not fit",
        "unknown": "no signature fits; the first error in the log is quoted",
    }
)


@dataclass(frozen=True, slots=True)
class Observation:
    """Evidence for a verdict: what was seen of a boot, of a request, or of several."""

    outcome: Outcome | None
    """None where nothing was seen of the server, because whoever was to look at it could not."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    phase: str | None = None
    signature: str | None = None
    kind: Kind | None = None
    """The class of a failure; None where nothing failed."""
    said: str = ""
    """The server's own words about a refusal or a failure."""
    sent_tokens: int | None = None
    """Prompt tokens sent, where the server's count must equal them."""
    asked_tokens: int | None = None
    """Completion tokens asked for, where the server's count must equal them."""
    measured_by: str = ""
    """Who measured, where it was not this package's own client."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What the boot's log called by name, and under ``notices`` the ids of the harmless lines that were in it."""
