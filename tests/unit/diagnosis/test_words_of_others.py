"""
What programs beside the engines' Python code say of a failure: native code, other languages, other makers' runtimes.

Each line is of a kind that no rule knew, in words of the program's source; none is from a log of the labelled sets.
"""

import pytest

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess
from pytest_longctx.diagnosis.log_file import read

CATALOGUES = catalogues()
ALL = every_catalogue()


def answer(text: str, engine: str) -> Diagnosis | None:
    return assess(read([f"{text}\n".encode()], CATALOGUES.get(engine, ALL)), Evidence(exit_code=1))[1]


LINES = [
    (
        "llamacpp",
        "llama_model_load: error loading model: create_tensor: tensor 'blk.3.attn_q.bias' not found",
        "checkpoint-mismatch",
    ),
    (
        "llamacpp",
        "error loading model: llama.cpp: tensor 'layers.0.feed_forward.w1.weight' is missing from model",
        "checkpoint-mismatch",
    ),
    (
        "llamacpp",
        "llama_model_load: error loading model: check_tensor_dims: tensor 'blk.0.attn_k_b.weight' not found",
        "checkpoint-mismatch",
    ),
    ("llamacpp", "llama_model_load: tensor 'blk.0.attn_k.weight' has wrong size in model file", "checkpoint-mismatch"),
    (
        "llamacpp",
        "llama_model_load: error loading model: error loading model hyperparameters: key not found in model: deepseek2.attention.key_length_mla",
        "model-config",
    ),
    (
        "llamacpp",
        "llama_model_load: error loading model: error loading model vocabulary: cannot find tokenizer vocab in model file",
        "tokenizer-missing",
    ),
    (
        "llamacpp",
        "llama_model_load: error loading model: error loading model hyperparameters: invalid n_rot: 64, expected 80",
        "model-config",
    ),
    (
        "llamacpp",
        "gguf_init_from_file: failed to open '/models/x.gguf' with error No such file or directory\nllama_model_load: error loading model: llama_model_loader: failed to load model from /models/x.gguf",
        "model-missing",
    ),
    (
        "llamacpp",
        "llama_model_load: error loading model: failed to open models/7B/ggml-model.gguf: No such file or directory",
        "model-missing",
    ),
    ("llamacpp", "gguf_init_from_file: failed to open GGUF file '/m/q.gguf' (Permission denied)", "permission"),
    (
        "llamacpp",
        "llama_model_load: error loading model: illegal split file idx: 1 (file: x), model must be loaded with the first split",
        "model-missing",
    ),
    ("llamacpp", "llama_model_load: error loading model: invalid split file name: x.gguf", "model-missing"),
    ("llamacpp", "error: invalid device: CUDA1", "device"),
    (
        "llamacpp",
        "ggml_metal_graph_compute: command buffer 1 failed with status 5\nerror: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "gpu-oom",
    ),
    (
        "llamacpp",
        "ggml_backend_metal: error: command buffer 0 failed with status 5\nerror: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
        "gpu-fault",
    ),
    (
        "llamacpp",
        "./llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by ./llama-server)",
        "environment",
    ),
    ("llamacpp", "dyld[1234]: Library not loaded: @rpath/libllama.dylib", "environment"),
    (
        "llamacpp",
        'time=2025-02-03T10:00:00.000Z level=WARN source=server.go:136 msg="model request too large for system" requested="48.1 GiB" available=17179869184\nError: model requires more system memory (48.1 GiB) than is available (16.0 GiB)',
        "host-oom",
    ),
    ("llamacpp", "Error: pull model manifest: file does not exist", "model-missing"),
    (
        "llamacpp",
        'Error: pull model manifest: Get "https://registry.ollama.ai/v2/library/llama3/manifests/latest": dial tcp: lookup registry.ollama.ai on 127.0.0.53:53: server misbehaving',
        "hub-offline",
    ),
    (
        "llamacpp",
        'Error: max retries exceeded: Get "https://dd20bb891979d25aebc8bec07b2b3bbc.r2.cloudflarestorage.com/x": net/http: TLS handshake timeout',
        "hub-offline",
    ),
    ("llamacpp", "Error: mkdir /usr/share/ollama/.ollama/models: permission denied", "permission"),
    ("llamacpp", "Error: open /root/.ollama/id_ed25519: permission denied", "permission"),
    (
        "llamacpp",
        "Error: digest mismatch, file must be downloaded again: want sha256:a, got sha256:b",
        "weights-corrupt",
    ),
    ("llamacpp", "parse: error parsing grammar: unexpected end of input", "structured-output"),
    (
        "trtllm",
        "[TensorRT-LLM][ERROR] Assertion failed: Connection to the cache transceiver of rank 3 was lost while a transfer was in flight (/src/cacheTransceiver.cpp:77)",
        "kv-transfer",
    ),
    (
        "trtllm",
        "[TensorRT-LLM][ERROR] Error in formatOutput: recvReadySignal failed (dataTransceiver.cpp:220)",
        "kv-transfer",
    ),
    ("trtllm", "[TRT-LLM] [E] Error in kv cache transfer for context requests", "kv-transfer"),
    (
        "trtllm",
        "RuntimeError: [TensorRT-LLM][ERROR] Assertion failed: Must have at least one block",
        "kv-cache-too-small",
    ),
    (
        "trtllm",
        "[TensorRT-LLM][ERROR] Assertion failed: maxInputLen <= maxNumTokens (8192 <= 4096) enable_chunked_context to allow for longer prompts (trtGptModel.h:10)",
        "config",
    ),
    (
        "trtllm",
        "[TRT] [E] createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 35)",
        "device",
    ),
    ("vllm", "error: failed to create directory `/cache/uv`: Permission denied (os error 13)", "permission"),
    ("vllm", "server-1  | error: failed to open file `/root/x`: Permission denied (os error 13)", "permission"),
    ("tgi", 'Error: Os { code: 13, kind: PermissionDenied, message: "Permission denied" }', "permission"),
    (
        "tgi",
        "thread 'main' panicked at src/main.rs:3:1:\ncalled `Result::unwrap()` on an `Err` value: Os { code: 13, kind: PermissionDenied, message: \"Permission denied\" }",
        "permission",
    ),
    ("vllm", "memory allocation of 1073741824 bytes failed", "host-oom"),
    ("vllm", "mkdir: cannot create directory '/data/models': Permission denied", "permission"),
    ("vllm", "mkdir: cannot create directory '/data': Read-only file system", "permission"),
    ("vllm", "cp: cannot create regular file '/x': Permission denied", "permission"),
    ("vllm", "/usr/bin/env: 'bash': Permission denied", "permission"),
    ("vllm", "/usr/bin/python3: No module named vllm.entrypoints", "engine-missing"),
    ("sglang", "/usr/bin/python: No module named sglang.launch_server", "engine-missing"),
    (
        "vllm",
        'docker: Error response from daemon: failed to create task for container: exec: "--model": executable file not found in $PATH: unknown',
        "bad-flag",
    ),
    ("all", "Exception: unable to extract config.json from directory /models/x", "model-missing"),
    (
        "all",
        "Exception: Failed to fetch model 'meta/x' from HuggingFace: request error: HTTP status client error (401 Unauthorized) for url (https://huggingface.co/api/models/meta/x)",
        "hub-denied",
    ),
    (
        "tgi",
        'Error: Tokenizer("Failed to load tokenizer: data did not match any variant of untagged enum ModelWrapper at line 757371 column 3")',
        "tokenizer-missing",
    ),
    ("tgi", "NotImplementedError: sharded is not supported for AutoModel", "model-unsupported"),
    ("vllm", "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable", "device"),
    ("vllm", "/tmp/x.py:97:0: error: Failures have been detected while processing an MLIR pass pipeline", "compile"),
    ("all", "ERROR:neuronxcc.driver.CommandDriver: An Internal Compiler Error has occurred", "compile"),
    (
        "vllm",
        "node1:12:99 [0] include/shm.h:48 NCCL WARN Error: failed to extend /dev/shm/nccl-x to 33030532 bytes",
        "shm-full",
    ),
    (
        "trtllm",
        "RuntimeError: [TensorRT-LLM][ERROR] Assertion failed: Impossible to fit any sequence in kvCache",
        "kv-cache-too-small",
    ),
    (
        "trtllm",
        "RuntimeError: The sum of prompt length (9000.0) and query length max_tokens should not exceed max_num_tokens (8192)",
        "config",
    ),
    (
        "trtllm",
        "RuntimeError: cannot load MPI library\nlibmpi.so.40: cannot open shared object file: No such file or directory",
        "environment",
    ),
    ("lmdeploy", "[TM][FATAL] models/llama/LlamaBatch.cc(1): Check failed: cudaMalloc out of memory", "gpu-oom"),
    ("llamacpp", "ValueError: Model path does not exist: /models/x.gguf", "model-missing"),
    (
        "llamacpp",
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: Unexpected empty grammar stack after accepting piece: {",
        "structured-output",
    ),
    ("vllm", "Failed to initialize the TMA descriptor 700", "gpu-fault"),
    ("sglang", "RuntimeError: DeepEP error: CPU recv timeout", "collective-hang"),
    ("sglang", "RuntimeError: DeepEP error: timeout (dispatch CPU)", "collective-hang"),
    (
        "vllm",
        "(EngineCore_DP0 pid=1) ERROR 01-01 00:00:00 [nixl_connector.py:1] NIXL transfer failed for request x with status ERR",
        "kv-transfer",
    ),
    (
        "vllm",
        "E20250101 00:00:00.000000 1 rdma_transport.cpp:1] Failed to register memory: 0x7f Bad address [14]",
        "kv-transfer",
    ),
    ("vllm", "E0101 00:00:00.000000 1 transfer_engine_impl.cpp:1] Metadata service: failed to connect", "kv-transfer"),
    ("all", "2025-01-01T00:00:00.000Z ERROR dynamo_llm::disagg: KV transfer timed out after 120s", "kv-transfer"),
    ("llamacpp", "panic: failed to sample token: sample: logits sum to NaN, check model output", "nan-logits"),
    (
        "llamacpp",
        'time=2026-01-02T03:04:05.678Z level=ERROR source=runner.go:902 msg="failed to sample token" error="sample: logits sum to NaN, check model output"',
        "nan-logits",
    ),
    (
        "llamacpp",
        '10:04AM ERR error loading model error="could not load model: rpc error: code = Unknown desc = failed to load model: open /models/x.gguf: no such file or directory"',
        "model-missing",
    ),
    (
        "vllm",
        "mlx: RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "gpu-oom",
    ),
    (
        "vllm",
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution failed: Insufficient Memory",
        "gpu-oom",
    ),
    (
        "vllm",
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
        "gpu-fault",
    ),
    ("llamacpp", "RuntimeError: Insufficient VRAM for model and cache", "gpu-oom"),
    (
        "vllm",
        "OSError: [Errno 48] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
        "port-taken",
    ),
    (
        "vllm",
        "[WinError 10048] only one usage of each socket address (protocol/network address/port) is normally permitted",
        "port-taken",
    ),
    ("vllm", "[Errno 13] error while attempting to bind on address ('0.0.0.0', 80): permission denied", "permission"),
    (
        "vllm",
        "ERROR serve 2025-01-01 00:00:00,000 controller 1 -- Deployment 'x' in application 'default' has 1 replicas that have taken more than 30s to be scheduled.",
        "cluster-resources",
    ),
    (
        "trtllm",
        "E0101 00:00:00.000000 1 model_repository_manager.cc:1] \"Poll failed for model directory 'x': failed to open text file for read /m/x/config.pbtxt: No such file or directory\"",
        "model-missing",
    ),
    (
        "trtllm",
        "E0101 00:00:00.000000 1 model_repository_manager.cc:1] \"Poll failed for model directory 'x': Invalid model name: Could not determine backend for model 'x' with no backend in model configuration.\"",
        "config",
    ),
    ("lmdeploy", "[TM][FATAL] kernels/grammar_mask.cu(31): Check failed: rows == batch", "structured-output"),
    (
        "trtllm",
        "[TensorRT-LLM][ERROR] Assertion failed: the bitmask has fewer rows than the batch (/x/guidedDecoder.cpp:9)",
        "structured-output",
    ),
    ("sglang", "/x/modules/transport/ibrc/ibrc.cpp:7: non-zero status: 7 ep_connect failed", "rank-unreachable"),
    ("llamacpp", "/x/ggml/src/ggml-backend.cpp:31: the graph has a cycle at node 7", "engine-assert"),
]
"""Engine, line and class."""


@pytest.mark.parametrize(("engine", "line", "kind"), LINES)
def test_a_programs_own_line_is_read(engine, line, kind):
    found = answer(line, engine)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("line", sorted({line.split("\n")[-1] for _, line, _ in LINES}))
def test_such_a_line_in_a_request_is_quoted(line):
    log = [
        "INFO:     Application startup complete.",
        f"INFO 02-02 18:01:54 [logger.py:37] Received request cmpl-1-0: prompt: {line!r}, params: x",
        'INFO:     127.0.0.1:36030 - "POST /v1/completions HTTP/1.1" 200 OK',
    ]
    assert assess(read(["\n".join([*log, ""]).encode()], ALL), Evidence()) == ("healthy", None)


@pytest.mark.parametrize("level", ["WARNING", "INFO"])
@pytest.mark.parametrize("line", [line for _, line, _ in LINES[::5]])
def test_such_a_line_before_the_server_is_up_is_no_failure_at_a_low_level(line, level):
    log = f"{level} 02-02 18:01:54 [worker.py:37] {line.splitlines()[-1]}\nINFO:     Application startup complete.\n"
    assert assess(read([log.encode()], ALL), Evidence()) == ("healthy", None)
