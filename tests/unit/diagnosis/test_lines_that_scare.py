"""Lines that look like failures, of engines that live on: requests that failed, retries, probes, notices of libraries, and noise of a shutdown."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read

CATALOGUES = catalogues()
SERVES = {
    "vllm": (
        "INFO:     Application startup complete.",
        'INFO:     10.0.0.1:9 - "POST /v1/completions HTTP/1.1" 200 OK',
    ),
    "sglang": (
        "[2026-11-30 09:59:59] The server is fired up and ready to roll!",
        '[2026-11-30 10:00:01] INFO:     10.0.0.1:9 - "POST /generate HTTP/1.1" 200 OK',
    ),
    "llamacpp": (
        "main: server is listening on http://127.0.0.1:8080 - starting the main loop",
        "srv  log_server_r: request: POST /v1/chat/completions 127.0.0.1 200",
    ),
}
"""The lines of an engine that is up and that answers."""
LINES = {
    "vllm": [
        "WARNING 11-30 10:00:00 [envs.py:2128] Unknown vLLM environment variable detected: VLLM_MODEL",
        "WARNING 11-30 10:00:00 [config.py:3683] Current vLLM config is not set.",
        "ERROR 11-30 10:00:00 [serving_chat.py:200] Error in preprocessing prompt inputs",
        "ERROR 11-30 10:00:00 [serving_models.py:99] Error with model error=ErrorInfo(message='The model `gpt-4` does not exist.', type='NotFoundError', param='model', code=404)",
        "WARNING 11-30 10:00:00 [api_server.py:1213] SIGHUP is not handled by this server",
        "ERROR 11-30 10:00:00 [hermes_tool_parser.py:120] Error in extracting tool call from response.",
        "ERROR 11-30 10:00:00 [qwen3coder_tool_parser.py:80] Error parsing tool call: Expecting value: line 1 column 1 (char 0)",
        "WARNING 11-30 10:00:00 [chat_utils.py:400] Failed to load AutoTokenizer chat template for /m",
        "WARNING 11-30 10:00:00 [fused_moe.py:888] Using default MoE config. Performance might be sub-optimal! Config file not found at ['/x/E=64,N=384.json']",
        "WARNING 11-30 10:00:00 [custom_all_reduce.py:144] Custom allreduce is disabled because your platform lacks GPU P2P capability or P2P test failed.",
        "[rank0]:[W1130 10:00:00.424580246 ProcessGroupNCCL.cpp:1524] Warning: WARNING: destroy_process_group() was not called before program exit, which can leak resources.",
        "WARNING 11-30 10:00:00 [symm_mem.py:58] SymmMemCommunicator: Device capability 8.9 not supported, communicator is not available.",
        "WARNING 11-30 10:00:00 [topk_topp_sampler.py:60] FlashInfer is not available. Falling back to the PyTorch-native implementation of top-p & top-k sampling.",
        "WARNING 11-30 10:00:00 [protocol.py:91] The following fields were present in the request but ignored: {'max_completion_tokens_x'}",
        'INFO:     10.0.0.2:9 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request',
        'INFO:     10.0.0.2:9 - "GET /v1/modelz HTTP/1.1" 404 Not Found',
        'INFO:     10.0.0.2:9 - "POST /v1/embeddings HTTP/1.1" 501 Not Implemented',
        "WARNING:  Invalid HTTP request received.",
        "WARNING 11-30 10:00:00 [multiproc_executor.py:900] Reducing Torch parallelism from 64 threads to 1 to avoid unnecessary CPU contention.",
        "Exception ignored in: <function WeakValueDictionary.__init__.<locals>.remove at 0x7f>",
        "/usr/lib/python3.12/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked shared_memory objects to clean up at shutdown",
        "WARNING 11-30 10:00:00 [scheduler.py:1200] Request cmpl-7 is preempted by PreemptionMode.RECOMPUTE mode because there is not enough KV cache space.",
        "ERROR 11-30 10:00:00 [usage_lib.py:200] Failed to report usage stats: HTTPSConnectionPool(host='stats.vllm.ai', port=443): Max retries exceeded",
        "WARNING 11-30 10:00:00 [utils.py:500] Error fetching image https://x/y.png: 404, message='Not Found'",
        "ERROR 11-30 10:00:00 [async_llm.py:300] Request cmpl-9 failed (bad request): prompt is empty",
        "(APIServer pid=1) WARNING 11-30 10:00:00 [cache.py:216] Possibly too large swap space. 64.00 GiB out of the 125.00 GiB total CPU memory is allocated for the swap space.",
        "DEBUG 11-30 10:00:00 [__init__.py:44] TPU platform is not available because: No module named 'libtpu'",
        "WARNING 11-30 10:00:00 [interface.py:500] Failed to import from vllm._C: ModuleNotFoundError(\"No module named 'vllm._C'\")",
        "NCCL version 2.27.5+cuda12.9",
        "[Gloo] Rank 0 is connected to 0 peer ranks. Expected number of connected peer ranks is : 0",
        "ERROR:    [Errno 104] Connection reset by peer",
        "WARNING 11-30 10:00:00 [nixl_connector.py:900] Releasing expired KV blocks for request cmpl-3 which were retrieved by 0 decode worker(s) within 120 seconds.",
        "[2026-11-30 10:00:00,562] LMCache WARNING: Failed to allocate memory for the KV cache.",
        "LMCache ERROR: Failed to connect to the remote lm://cache:81, retrying in 5 s",
        "[1763682855.106417] [host:267  :0] ucp_context.c:2339 UCX  WARN  UCP API version is incompatible: required >= 1.20, actual 1.19.0",
        "[1763682855.1] [host:267  :0] cuda_ipc_md.c:90 UCX  ERROR   cuMemImportFromShareableHandle failed: invalid resource handle",
        "07d92dd514d4:142935:143254 [0] transport/net_ib.cc:100 NCCL WARN NET/IB : mlx5_3:1 Got async event : GID table change",
        "The tokenizer you are loading from '/m' with an incorrect regex pattern: https://x. This will lead to incorrect tokenization.",
        "(pid=46961) W0202 12:53:04.916000 46961 torch/utils/cpp_extension.py:117] No CUDA runtime is found, using CUDA_HOME='/usr/local/cuda'",
        "2026-11-30T10:00:00.000Z WARN KvWorkerMonitor: KV metrics subscriber not available, skipping load metrics.",
    ],
    "sglang": [
        "[2026-11-30 10:00:00 TP0] The following error message 'operation scheduled before its operands' can be ignored.",
        "[2026-11-30 10:00:00] Abort request of rid='x' that does not exist",
        "[2026-11-30 10:00:00] Error in request: Input length (9000 tokens) exceeds the maximum allowed length (8192 tokens).",
        "[2026-11-30 10:00:00 TP0] Retract requests. #retracted_reqs: 1, #new_tokens_gained: 100",
        "[2026-11-30 10:00:00 TP0] KV cache pool is full. Retract requests. #retracted_reqs: 2",
        "[2026-11-30 10:00:00 TP0] using attn output gate!",
        '[2026-11-30 10:00:00] INFO:     10.0.0.3:1 - "POST /generate HTTP/1.1" 400 Bad Request',
        "[2026-11-30 10:00:00] Health check failed. Server couldn't get a response from detokenizer for last 20 seconds. tic start time: 10:00:00. last_heartbeat time: 09:59:40",
        "[2026-11-30 10:00:00 TP0] Failed to import tilelang: No module named 'tilelang'",
        "[2026-11-30 10:00:00] WARNING: client disconnected, abort request x",
        '[2026-11-30 10:00:00] Failed to parse JSON part: {"name"',
        "W1130 10:00:00.1 1 torch/_inductor/utils.py:1137] Not enough SMs to use max_autotune_gemm mode",
    ],
    "llamacpp": [
        "srv    send_error: task id = 7, error: the request exceeds the available context size, try increasing it",
        'srv    operator(): got exception: {"error":{"code":400,"message":"Failed to parse grammar","type":"invalid_request_error"}}',
        "W load: control-looking token: 128247 '</s>' was not control-type; this is probably a bug in the model. its type will be overridden",
        "0.01.274.655 W common_fit_params: failed to fit params to free device memory: n_gpu_layers already set by user to 99, abort",
        "W ggml_opencl: drop unsupported device 'NVIDIA GeForce RTX 3090'.",
        "ggml_vulkan: Warning: Device type is CPU. This is probably not the device you want.",
        "srv  update_slots: failed to find free space in the KV cache, retrying with smaller batch size, i = 0, n_batch = 256, ret = 1",
        "radv/amdgpu: a warning about the ring",
    ],
}


@pytest.mark.parametrize(("engine", "line"), [(engine, line) for engine, lines in LINES.items() for line in lines])
def test_an_engine_that_lives_on_is_healthy(engine, line):
    up, answers = SERVES[engine]
    for log in ((up, answers, line, answers), (up, answers, line), (line, up, answers)):
        assert assess(read(["\n".join((*log, "")).encode()], CATALOGUES[engine]), Evidence()) == ("healthy", None)
