"""
What the libraries below an engine raise, and what an engine raises in words of its own.

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


def raised(place: str, exception: str) -> str:
    file, _, function = place.partition(":")
    frame = f'  File "/usr/local/lib/python3.12/dist-packages/{file}", line 7, in {function}'
    return f"Traceback (most recent call last):\n{frame}\n    f()\n{exception}"


EXCEPTIONS = [
    (
        "vllm",
        "transformers/models/auto/processing_auto.py:from_pretrained",
        "ValueError: Unrecognized processing class in /models/x. Can't instantiate a processor, a tokenizer, an image processor or a feature extractor for this model. Make sure the repository contains the files of at least one of those processing classes.",
        "model-missing",
    ),
    (
        "vllm",
        "vllm/multimodal/processing.py:call_hf_processor",
        "TypeError: Qwen2VLProcessor.__init__() got multiple values for argument 'image_processor'",
        "environment",
    ),
    (
        "vllm",
        "vllm/transformers_utils/processor.py:get_processor",
        "TypeError: Invalid type of HuggingFace processor. Expected type: <class 'x'>, but found type: <class 'y'>",
        "environment",
    ),
    (
        "vllm",
        "vllm/multimodal/profiling.py:get_mm_dummy",
        "ValueError: The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure that `max_model_len` is no smaller than the number of text tokens plus multimodal tokens.",
        "config",
    ),
    (
        "vllm",
        "torch/cuda/__init__.py:set_device",
        "AssertionError: DP adjusted local rank 8 is out of bounds",
        "device",
    ),
    (
        "vllm",
        "triton/backends/nvidia/driver.py:libcuda_dirs",
        "AssertionError: libcuda.so cannot found!\nPossible files are located at",
        "environment",
    ),
    (
        "sglang",
        "sglang/srt/disaggregation/mooncake/conn.py:__init__",
        "RuntimeError: KV cache dtype mismatch: prefill server has kv_cache_dtype=fp8_e4m3, but decode server has kv_cache_dtype=auto. Both servers must use the same --kv-cache-dtype value.",
        "kv-transfer",
    ),
    (
        "sglang",
        "sglang/srt/disaggregation/common/conn.py:try_ensure_parallel_info",
        "RuntimeError: Page size mismatch: prefill server has page_size=64, but decode server has page_size=1. Both servers must use the same --page-size value.",
        "kv-transfer",
    ),
    ("sglang", "sgl_jax/srt/utils/padding.py:find", "ValueError: No bucket >= 4096. Available: [64, 128].", "config"),
    (
        "vllm",
        "vllm_gaudi/extension/bucketing/common.py:find_bucket",
        "RuntimeError: No prompt bucket found for batch_size=1 seq_len=9000",
        "config",
    ),
    (
        "vllm",
        "neuronx_distributed_inference/modules/autobucketing.py:x",
        "ValueError: No bucket larger or equal to 8192 found",
        "config",
    ),
    (
        "vllm",
        "neuronx_distributed_inference/models/model_wrapper.py:get_target_bucket",
        "ValueError: Context encoding bucket 4096 is not large enough for input length 5000. No bucket found",
        "config",
    ),
    (
        "vllm",
        "tpu_inference/runner/utils.py:get_padded_token_len",
        "AssertionError: Cannot find padded size for 9000 in [16, 32]",
        "config",
    ),
    (
        "vllm",
        "jax/_src/xla_bridge.py:backends",
        "RuntimeError: Unable to initialize backend 'tpu': UNKNOWN: TPU initialization failed: open(/dev/vfio/0): Operation not permitted",
        "device",
    ),
    (
        "vllm",
        "jax/_src/x.py:x",
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Attempting to allocate 2.00G. That was not possible. There are 1.20G free.; (0x0x0_HBM0)",
        "gpu-oom",
    ),
    (
        "vllm",
        "habana_frameworks/torch/hpu/__init__.py:x",
        "RuntimeError: [Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::939524096 (896)MB",
        "gpu-oom",
    ),
    (
        "vllm",
        "habana_frameworks/torch/core.py:x",
        "RuntimeError: synStatus=26 [Generic failure] Device critical error",
        "gpu-fault",
    ),
    (
        "vllm",
        "torch_npu/npu/utils.py:synchronize",
        "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity",
        "gpu-oom",
    ),
    (
        "vllm",
        "torch_npu/x.py:x",
        "RuntimeError: create:build/CMakeFiles/torch_npu.dir/compiler_depend.ts:49 HCCL function error: HcclCommInitRootInfo, error code is 7",
        "collective-failed",
    ),
    (
        "vllm",
        "vllm/distributed/kv_transfer/kv_connector/v1/nixl_connector.py:_validate",
        "AssertionError: Remote KV cache has 8 blocks and local 16",
        "kv-transfer",
    ),
    (
        "vllm",
        "vllm/v1/engine/input_processor.py:x",
        "ValueError: The decoder prompt (length 40000) is longer than the maximum model length of 32768.",
        "config",
    ),
    (
        "vllm",
        "vllm/entrypoints/openai/cli_args.py:validate_parsed_serve_args",
        "TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser",
        "bad-flag",
    ),
    (
        "vllm",
        "vllm/tool_parsers/abstract_tool_parser.py:x",
        'KeyError: "invalid tool call parser: qwen9 (chose from { hermes })"',
        "bad-flag",
    ),
    (
        "vllm",
        "vllm/reasoning/abs_reasoning_parsers.py:x",
        "KeyError: \"Reasoning parser 'qwen9' not found. Available parsers: a, b\"",
        "bad-flag",
    ),
    (
        "vllm",
        "vllm/reasoning/basic_parsers.py:__init__",
        "RuntimeError: DeepSeekR1ReasoningParser reasoning parser could not locate think start/end tokens in the tokenizer!",
        "tokenizer-missing",
    ),
    (
        "vllm",
        "vllm/tool_parsers/hermes_tool_parser.py:__init__",
        "RuntimeError: Hermes Tool parser could not locate tool call start/end tokens in the tokenizer!",
        "tokenizer-missing",
    ),
    (
        "vllm",
        "vllm/model_executor/layers/fused_moe/layer.py:_load_w13",
        "RuntimeError: The size of tensor a (768) must match the size of tensor b (384) at non-singleton dimension 1",
        "checkpoint-mismatch",
    ),
    ("sglang", "tvm_ffi/cpp/extension.py:build_ninja", "RuntimeError: ninja exited with status 1", "toolchain-missing"),
    (
        "trtllm",
        "tensorrt_llm/_torch/pyexecutor/resource_manager.py:x",
        "AssertionError: Impossible to fit in any sequence in kvCache",
        "kv-cache-too-small",
    ),
    (
        "vllm",
        "vllm/executor/ray_utils.py:x",
        "ValueError: Ray does not allocate any GPUs on the driver node. Consider adjusting the Ray placement group or running the driver on a GPU node.",
        "cluster-resources",
    ),
    (
        "vllm",
        "flashinfer/decode.py:run",
        "RuntimeError: Error in function 'BatchDecode' at /x.cu:100: FlashInfer Internal Error: Invalid configuration : NUM_MMA_Q=1",
        "gpu-fault",
    ),
    (
        "vllm",
        "x/flashinfer/prefill.py:plan",
        "RuntimeError: FlashInfer Internal Error: Invalid configuration : NUM_MMA_Q=1 NUM_MMA_D_QK=8",
        "gpu-fault",
    ),
    ("sglang", "deep_gemm/jit/compiler.py:build", "RuntimeError: NVCC compilation failed", "compile"),
    (
        "vllm",
        "aiter/jit/core.py:build_module",
        "RuntimeError: [aiter] build [module_mha_fwd] under /x failed !!!!!!",
        "compile",
    ),
    (
        "vllm",
        "vllm/platforms/__init__.py:resolve",
        "RuntimeError: Only one platform plugin can be activated, but got: ['ascend', 'xpu']",
        "environment",
    ),
    (
        "vllm",
        "x/x.py:x",
        "RuntimeError: cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph.",
        "device",
    ),
    (
        "vllm",
        "ray/x.py:x",
        "ray.exceptions.RayChannelTimeoutError: If the execution is expected to take a long time, increase RAY_CGRAPH_get_timeout which is currently 300 seconds.",
        "collective-hang",
    ),
    ("vllm", "x/x.py:x", "RuntimeError: Device string must not be empty", "device"),
    (
        "vllm",
        "transformers/models/auto/auto_factory.py:from_pretrained",
        "ValueError: Unrecognized configuration class <class 'x.XConfig'> for this kind of AutoModel: AutoModelForCausalLM.",
        "model-unsupported",
    ),
    (
        "vllm",
        "x/x.py:x",
        "huggingface_hub.errors.StrictDataclassClassValidationError: Class validation error for validator 'validate_rope'",
        "model-config",
    ),
    ("vllm", "x/x.py:x", "TypeError: 'type' object is not subscriptable", "environment"),
    ("vllm", "x/x.py:x", "TypeError: BaseModel.__init_subclass__() takes no keyword arguments", "environment"),
    (
        "vllm",
        "x/x.py:x",
        "TypeError: LlamaRotaryEmbedding.forward() missing 1 required positional argument: 'x'",
        "environment",
    ),
    ("vllm", "x/x.py:x", "SyntaxError: invalid syntax", "environment"),
    (
        "vllm",
        "x/x.py:x",
        'OSError: [WinError 126] The specified module could not be found. Error loading "C:\\\\torch\\\\lib\\\\c10.dll"',
        "environment",
    ),
    ("vllm", "x/x.py:x", "RuntimeError: Could not find the required library libmlx5", "environment"),
    ("vllm", "x/x.py:x", "ValueError: No suitable kernel found for this GPU: mxfp4", "wrong-build"),
    (
        "vllm",
        "x/x.py:x",
        "RuntimeError: [FP4 gemm Runner] Failed to run cutlass FP4 gemm on sm120. Error: Error Internal",
        "wrong-build",
    ),
    ("vllm", "x/x.py:x", "RuntimeError: Only SM90 and SM100 are supported", "wrong-build"),
    (
        "sglang",
        "x/x.py:x",
        "RuntimeError: No suitable users found. DeepGEMM: Unsupported architecture or scaling factor types",
        "wrong-build",
    ),
    ("vllm", "x/x.py:x", "RuntimeError: Unsupported GPU architecture gfx1201 for AITER", "wrong-build"),
    ("vllm", "x/x.py:x", "ValueError: Marlin kernel does not support compute capability 7.0", "wrong-build"),
    ("vllm", "x/x.py:x", "NotADirectoryError: [Errno 20] Not a directory: '/m/x.gguf/config.json'", "model-missing"),
    (
        "vllm",
        "transformers/modeling_gguf_pytorch_utils.py:load",
        "ValueError: GGUF model with architecture qwen35 is not supported yet.",
        "model-unsupported",
    ),
    ("vllm", "x/gguf_loader.py:x", "RuntimeError: Failed to map GGUF parameters (1): ['x']", "checkpoint-mismatch"),
    ("vllm", "exllamav2/x.py:x", "RuntimeError: Insufficient VRAM for model and cache", "gpu-oom"),
    (
        "vllm",
        "vllm/v1/core/sched/x.py:x",
        "ValueError: The context length (131072) of the model is too short to hold the multi-modal embeddings in the worst case (16384 tokens in total)",
        "config",
    ),
    ("vllm", "lmcache/v1/x.py:x", "RuntimeError: Failed to allocate memory for PD transfer", "kv-transfer"),
    (
        "sglang",
        "sglang/srt/disaggregation/utils.py:x",
        "ValueError: Invalid ib_device: mlx5_9. Available devices: mlx5_0",
        "config",
    ),
    ("vllm", "vllm/transformers_utils/config.py:patch_rope", "KeyError: 'type'", "model-config"),
    (
        "vllm",
        "vllm/model_executor/layers/rotary_embedding/__init__.py:get_rope",
        "KeyError: 'rope_type'",
        "model-config",
    ),
    (
        "vllm",
        "vllm/model_executor/layers/x.py:forward",
        "NameError: name 'flash_attn_varlen_func' is not defined",
        "environment",
    ),
    (
        "sglang",
        "sglang/srt/speculative/x.py:forward",
        "NameError: name 'sgl_verify_kernel' is not defined",
        "environment",
    ),
    (
        "vllm",
        "vllm/model_executor/x.py:get",
        "AttributeError: type object 'GrammarCompiler' has no attribute 'from_vocab'",
        "environment",
    ),
    (
        "vllm",
        "vllm/x.py:run",
        "TypeError: Mismatched type on argument #0 when calling: `flashinfer.page.append(0: int) -> int`. Expected `int` but got `str`.",
        "environment",
    ),
    (
        "sglang",
        "sglang/srt/constrained/x.py:accept",
        "TypeError: Mismatched type on argument #2 when calling: `xgrammar.kernels.apply(0: int, 1: int, 2: int) -> None`. Expected `int` but got `str`.",
        "structured-output",
    ),
    ("vllm", "accelerate/utils/imports.py:<module>", "ValueError: invalid version of the backend", "environment"),
    ("sglang", "transformers/utils/import_utils.py:_set", "KeyError: 'tfx'", "environment"),
    (
        "vllm",
        "vllm/v1/engine/core_client.py:__init__",
        "TimeoutError: Timed out waiting for workers to report their ports.",
        "load-timeout",
    ),
    (
        "vllm",
        "torch/distributed/distributed_c10d.py:barrier",
        "RuntimeError: [/x/gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 600000ms for recv operation to complete",
        "rank-unreachable",
    ),
    (
        "vllm",
        "flashinfer/compilation_context.py:get",
        "RuntimeError: No supported CUDA architectures found for major versions [12, 13].",
        "wrong-build",
    ),
    ("vllm", "vllm/x.py:alloc", "torch.AcceleratorError: CUDA error: PTX JIT compiler library not found", "device"),
    ("vllm", "vllm/x.py:alloc", "ValueError: Pinned memory is not available on this host", "device"),
    (
        "vllm",
        "torch/x.py:f",
        "RuntimeError: CUDA error: API call is not supported in the installed CUDA driver",
        "driver-too-old",
    ),
    ("vllm", "torch/x.py:f", "RuntimeError: CUDA error: too many blocks in cooperative launch", "kernel-limit"),
    (
        "vllm",
        "vllm/config/model.py:f",
        "ValueError: `architectures` is missing from the config of the draft",
        "model-config",
    ),
]
"""Engine, the last frame's file and function, exception and class."""


@pytest.mark.parametrize(("engine", "place", "exception", "kind"), EXCEPTIONS)
def test_an_exception_is_read(engine, place, exception, kind):
    found = answer(raised(place, exception), engine)
    assert found is not None
    assert found.kind == kind
