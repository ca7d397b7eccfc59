"""
An exception of Python in the engine's own code, while the engine was at work: the class of a failure that no signature names.

A key that is not there, or two tensors whose sizes do not fit, is no refusal of a configuration and no lack of a resource: the
engine, its weights loaded, met a state that its authors had not thought of. As with a failed check, the line of code is known,
and which change avoids it is not.
"""

import re
from typing import Final

from pytest_longctx.diagnosis.boot_state import Boot
from pytest_longctx.diagnosis.signatures import Phase
from pytest_longctx.diagnosis.tracebacks import FRAME
from pytest_longctx.observation import Kind

_MISTAKE: Final = re.compile(
    r"^(?:KeyError|IndexError|AttributeError|TypeError|NameError|UnboundLocalError|ZeroDivisionError|RecursionError|StopIteration)"
    r"(?:: |$)"
)
"""Exceptions by which Python reports a mistake of the program that runs."""
_TENSORS: Final = re.compile(
    r"^(?:RuntimeError|ValueError|IndexError): .*(?:"
    r"[Ss]izes of tensors must match|The size of tensor a \(|mat1 and mat2 (?:shapes|must)|shape '\[.*\]' is invalid for input"
    r"|[Ee]xpected all tensors to be on the same device|expanded size of the tensor|must match the existing size|shape mismatch"
    r"|split_with_sizes expects|index(?: -?\d+)? (?:is )?out of (?:range|bounds)|must have shape|expected scalar type"
    r"|must have the same (?:dtype|batch size|shape|size|number of)|[Dd]imension (?:out of range|specified as)|output with shape"
    r"|could not be broadcast|selected index k out of range|[Ss]tack expects each tensor|[Ii]nvalid shape|size mismatch"
    r"|view size is not)"
)
"""Operations of PyTorch and NumPy on tensors that do not fit each other."""
_CALL: Final = re.compile(r"^TypeError: [\w.]+\(\) missing \d+ required (?:positional|keyword-only) argument")
"""A call whose arguments no configuration gives: a mistake in whatever phase."""
_RAISED: Final = re.compile(r"^(?:ValueError|RuntimeError|Exception|NotImplementedError): ")
_NOT_OWN_FAULT: Final = re.compile(
    r"CUDA|HIP|NPU|XPU|cuBLAS|CUBLAS|NCCL|RCCL|HCCL|ZMQ|memory|[Tt]ime(?:d )?[ -]?out|[Cc]ancel|[Cc]onnect|[Cc]losed|[Rr]emote"
    r"|[Pp]eer|\bsupport|[Uu]nsupported|instal|[Cc]ompil|[Ww]orker|[Pp]rocess|[Ee]ngine|--[a-z]|larger than|exceed|greater than"
    r"|at (?:most|least)"
)
"""Words of a refusal, or of another part that failed: such an exception says more than that the program is mistaken."""
_ENGINE: Final = (
    r"(?:vllm|vllm_ascend|vllm_gaudi|sglang/srt|lmdeploy|tensorrt_llm|text_generation_server|aphrodite|lmcache)/"
)
_PASSES_ON: Final = r"(?!.*(?:shm_broadcast|multiproc|core_client|/executor/|device_communicators|rpc))"
"""Files of an engine that tell what another process says."""
_OWN: Final = re.compile(rf'File "[^"]*\b{_ENGINE}{_PASSES_ON}')
_BELOW: Final = re.compile(
    r'File "[^"]*/(?:torch|transformers|flashinfer|numpy|vllm_flash_attn|flash_attn|fla|sgl_kernel)/'
)
"""Frames of the libraries with which an engine computes."""
_IMPORT: Final = re.compile(r", in <module>|<frozen importlib")

_COMPUTES: Final[tuple[Phase, ...]] = ("kv_cache", "profile", "warm-up", "graphs", "first forward", "serve", "request")
"""Phases after the loading of the weights. Before, a mistake may follow from a configuration or a checkpoint."""
_SERVES: Final[tuple[Phase, ...]] = ("serve", "request")

_ELSE: Final[Kind] = "engine-assert"
_PARTS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    (
        "kv-transfer",
        re.compile(r"kv_xfer|kv_transfer|kv_connector|/disaggregation/|\bnixl|mooncake|/lmcache/", re.IGNORECASE),
    ),
    ("structured-output", re.compile(r"grammar|structured_output|\bbitmask\b|guided_dec|/constrained/")),
)
"""Parts of an engine that have a class of their own, by the words of their files, functions and messages."""


def engine_exception(boot: Boot) -> tuple[Kind, str | None]:
    """
    The class of the exception that ended the engine of *boot* at work, and the exception with its last frame; None in its place
    if the first error of its log is none, or says more than that the engine's code is mistaken.
    """
    errors = boot.errors
    frame = next((line.strip() for line in reversed(errors.before) if FRAME.match(line)), "")
    if errors.text is None or not _counts(errors.text, frame, errors.phase or boot.reached):
        return _ELSE, None
    place = "\n".join((errors.text, *errors.before))
    kind = next((kind for kind, words in _PARTS if words.search(place)), _ELSE)
    return kind, f"{errors.text}, {frame}"


def _counts(text: str, frame: str, phase: Phase) -> bool:
    """Whether exception *text*, raised in *frame* while the boot was in *phase*, is a mistake in the engine's own code."""
    if _IMPORT.search(frame):
        return False
    if _CALL.match(text):
        return _OWN.search(frame) is not None
    if phase in _COMPUTES and (_MISTAKE.match(text) or _TENSORS.match(text)):
        return _OWN.search(frame) is not None or _BELOW.search(frame) is not None
    raised = _RAISED.match(text) is not None and _OWN.search(frame) is not None
    return phase in _SERVES and raised and _NOT_OWN_FAULT.search(text) is None
