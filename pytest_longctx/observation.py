"""The observation of a server, which is the evidence for a verdict. ``None`` means not observed, never zero."""

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
Observed outcome of a server.

``asserts``: the engine stopped on a failed assertion or another known kind of program error. ``dies``: it stopped in any
other way, with or without a known cause. ``fails``: it answered with an HTTP 5xx error and continued. ``overcommits``: it
started with a KV cache smaller than one request of the context it lists. ``adds up`` and ``cannot be`` apply to published
and logged figures; ``is sound`` and ``is flagged`` apply to published command lines.
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
    "bad-answer",
    "too-slow",
    "not-asked",
    "gpu-oom-compile",
    "mamba-blocks",
    "request-slots",
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
    "checkpoint-mismatch",
    "lora-mismatch",
    "chat-template-missing",
    "structured-output",
    "rank-unreachable",
    "collective-failed",
    "process-limit",
    "not-started",
    "service-unreachable",
    "cluster-resources",
    "environment",
    "toolchain-missing",
    "engine-assert",
    "unknown",
]
"""Class of a failure, independent of the engine. A closed set; see `KINDS`."""

KINDS: Mapping[Kind, str] = MappingProxyType(
    {
        "gpu-oom": "GPU memory ran out; the log does not name the allocation",
        "gpu-oom-weights": "GPU memory ran out while the weights were loaded",
        "gpu-oom-profile": "GPU memory ran out in the memory profiling run or in a warm-up",
        "gpu-oom-kv": "GPU memory ran out while the KV cache was allocated; other allocations used its memory",
        "gpu-oom-graphs": "GPU memory ran out while CUDA graphs were captured",
        "gpu-oom-tables": "GPU memory ran out while a table of requests by tokens was allocated",
        "gpu-oom-request": "GPU memory or the KV cache ran out under a request",
        "kv-cache-too-small": "the engine refused: its KV cache is too small for the configured context",
        "dirty-gpu": "another process holds the GPU's memory",
        "host-oom": "the host ran out of memory: the kernel killed a process or refused an allocation",
        "killed": "an external signal ended the engine; there is no sign of a memory shortage",
        "child-died": "a child process ended; its own message, if any, names the cause",
        "dead-engine": "the engine was already dead when the request arrived",
        "config": "the configuration contradicts itself or the model's configuration",
        "bad-flag": "this version does not know a flag or its value",
        "model-missing": "the model or one of its files is not available",
        "engine-missing": "the engine is not installed for this interpreter",
        "port-taken": "another process listens on the port",
        "fp8-assertion": "an assertion about the KV cache's FP8 dtype failed",
        "fp8-refused": "the KV cache's FP8 dtype is refused",
        "backend-unavailable": "no attention backend supports the configuration",
        "kernel-limit": "a size limit of a kernel or of its workspace; GPU memory did not run out",
        "compile": "the compiler, or the cache of what it compiled, failed",
        "device": "the accelerator or its runtime could not be used",
        "step-timeout": "one step took longer than the engine allows",
        "hang": "no answer and no logged reason",
        "hang-workers": "no answer; the workers did not respond",
        "hang-admission": "requests waited and none was scheduled",
        "over-length": "the request exceeds the served context",
        "truncated": "the request was truncated to fit",
        "proxy": "a component between client and server answered instead of the server",
        "server-error": "the server answers with an HTTP 5xx error and continues",
        "bad-answer": "the answer breaks its protocol, or exceeds a limit of size or of its number of chunks",
        "too-slow": "the time limit ended while the server was still working: no verdict",
        "not-asked": "the request could not be sent because of the set-up: no verdict",
        "gpu-oom-compile": "the compiler reports that the model does not fit the device's memory",
        "request-slots": "the table of running requests is full",
        "mamba-blocks": "fewer Mamba state blocks than concurrent requests",
        "connector-hybrid": "the KV connector does not support a model with several kinds of KV cache",
        "gpu-fault": "a GPU kernel faulted: illegal access, failed assertion, hardware exception or failed launch",
        "gpu-hardware": "the GPU or the host reports a hardware fault",
        "segfault": "native code crashed",
        "wrong-build": "this build has no code for this GPU or processor",
        "fp8-no-device": "the GPU does not support this FP8 type",
        "dtype-no-device": "the GPU does not support this data type",
        "driver-too-old": "the GPU driver is too old for this build",
        "collective-hang": "a collective operation of several processes did not end",
        "load-timeout": "loading exceeded the engine's time limit",
        "kv-transfer": "the transfer of the KV cache between two instances failed",
        "kv-corruption": "the KV cache does not contain what was written to it",
        "nan-logits": "the model's logits are NaN",
        "shm-full": "shared memory (/dev/shm) is full",
        "disk-full": "a file system is full",
        "permission": "a file or folder cannot be read or written",
        "hub-denied": "the model hub denies this account the model",
        "hub-offline": "the model is not in the local cache, and the hub cannot be reached",
        "model-config": "the model's configuration is missing, damaged or not readable by the engine",
        "model-unsupported": "this engine version does not support the model's architecture",
        "tokenizer-missing": "the tokenizer, or a package it needs, is missing",
        "weights-corrupt": "a weights file is damaged or incomplete",
        "checkpoint-mismatch": "the checkpoint's tensors do not match the model's class in this build",
        "lora-mismatch": "a LoRA adapter does not fit the model",
        "chat-template-missing": "the tokenizer has no chat template: every chat request is refused",
        "structured-output": "the grammar or schema of a request ended the engine",
        "rank-unreachable": "a rank cannot be reached at the address that it announced",
        "collective-failed": "the library of collectives (NCCL, RCCL, Gloo) refused or failed an operation",
        "process-limit": "the process reached a limit of the operating system: open files, threads, locked memory",
        "not-started": "the container, the unit or the command could not be started",
        "service-unreachable": "a service that the engine needs, such as etcd, does not answer",
        "cluster-resources": "the cluster has no free accelerators for the engine",
        "environment": "a Python package is missing or was built against another version",
        "toolchain-missing": "a compiler that is needed at run time is missing or incompatible",
        "engine-assert": "a check or an operation in the engine's own code, or in code below it, failed",
        "unknown": "no signature matches; the first error in the log is quoted",
    }
)


@dataclass(frozen=True, slots=True)
class Observation:
    """Evidence for a verdict: the observation of one boot, of one request, or of several requests."""

    outcome: Outcome | None
    """Observed outcome; ``None`` if the server could not be observed."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    phase: str | None = None
    signature: str | None = None
    kind: Kind | None = None
    """Class of the failure; ``None`` without a failure."""
    said: str = ""
    """The server's own message about a refusal or a failure."""
    sent_tokens: int | None = None
    """Prompt tokens sent, if the server's count must equal them."""
    asked_tokens: int | None = None
    """Completion tokens requested, if the server's count must equal them."""
    measured_by: str = ""
    """Tool that measured, if it was not this package's own client."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Named values of the boot log, and under ``notices`` the ids of its harmless lines."""
