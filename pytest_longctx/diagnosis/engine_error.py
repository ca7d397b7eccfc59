"""
Diagnose a check or an operation that failed in the engine's own code, or in code below it, without a known signature.

A failed assertion shows that the program reached a state that its authors had excluded. A missing key, or two tensors
whose sizes do not fit, is also a mistake of the program if the engine had loaded its weights: it is no refusal of a
configuration and no lack of a resource. The rules do not know which change avoids it, so the failed line of code is
quoted.
"""

import re
from collections.abc import Iterable
from typing import Final

from pytest_longctx.diagnosis.boot_state import Boot
from pytest_longctx.diagnosis.signatures import Phase
from pytest_longctx.diagnosis.tracebacks import FRAME, Trace, worded
from pytest_longctx.observation import Kind

DOUBT: Final = (
    "the failed code is known, but not the reason: a fault of this version, or a combination that it does not support"
)
REMEDY: Final = (
    "a search for the quoted line in the issues of the component that its file belongs to; meanwhile another release, or a start "
    "without the feature that the file or the message names (speculative decoding, a connector, a cache dtype, a backend)"
)

_NATIVE: Final = re.compile(
    r"\bGGML_ASSERT\(|\bGGML_ABORT\b|: Assertion [`'].*' failed|\bAssertion fail(?:ed|ure)?: |\bCheck failed: |TLLM_CHECK"
    r"|\bAssertion error (?:\(|\S+:\d)|\bINTERNAL ASSERT FAILED\b"
    r"|/ggml[\w/.-]*\.(?:c|cpp|cu|cuh|m|h):\d+: (?!(?!fatal )\S+ (?:error|[Ff]ailure)\b)"
)
"""Messages of an engine's native code about a failed check."""
_PYTHON: Final = re.compile(r"^(?:\w+\.)*AssertionError\b")
_OF_A_SCRIPT: Final = re.compile(r'File "<(?:stdin|string)>"|, in <module>')
"""Frames of a program that uses the engine, in which an assertion is not the engine's."""
_CHECK: Final = re.compile(r"\s*assert (?:(?:isinstance|len|hasattr)\(|[^(]|(?<!\w)\()+$")
"""A check that calls no function of the program, so no other exception can have been raised in it."""
_KEYLESS: Final = (
    "IndexError|AttributeError|TypeError|NameError|UnboundLocalError|ZeroDivisionError|RecursionError|StopIteration"
)
_LEAVES_OPEN: Final = re.compile(rf"^(?:{_KEYLESS})(?:: |$)")
"""
Mistakes that are not caused by a missing key of a configuration or a checkpoint. They count as soon as they occur in
the engine's frames.
"""
_MISTAKE: Final = re.compile(rf"^(?:KeyError|{_KEYLESS})(?:: |$)|^ValueError: (?:not enough|too many) values to unpack")
"""Exceptions by which Python reports a mistake of the program that runs."""
_TENSORS: Final = re.compile(
    r"^(?:RuntimeError|ValueError|IndexError): .*(?:"
    r"[Ss]izes of tensors must match|The size of tensor a \(|mat1 and mat2 (?:shapes|must)|shape '\[.*\]' is invalid for input"
    r"|[Ee]xpected all tensors to be on the same device|expanded size of the tensor|must match the existing size|shape mismatch"
    r"|split_with_sizes expects|index(?: -?\d+)? (?:is )?out of (?:range|bounds)|must have shape|expected scalar type"
    r"|must have the same (?:dtype|batch size|shape|size|number of)|[Dd]imension (?:out of range|specified as)|output with shape"
    r"|could not be broadcast|selected index k out of range|[Ss]tack expects each tensor|[Ii]nvalid shape|size mismatch"
    r"|view size is not|same reduction dim|multimodal tokens to \d+ placeholders"
    r"|\b(?:must|should|expected to) (?:all )?(?:be (?:equal to|the same as|(?:\w+[- ])?contiguous|on the same device)|match\b"
    r"|live on|(?:have|share) (?:the same )?(?:shape|dtype|stride|ndim|rank|storage|\d+ (?:dim|elem)))"
    r"|\b[Ee]xpected (?:\w+ )?(?:shape|dtype|tensor|dims?)\b.*\b(?:got|but)\b|\b(?:numel|shape|dtype|dim|stride)\b.* mismatch\b"
    r"|\bmust be (?:a )?(?:\d-?[dD]|\w+-byte aligned|torch\.\w+|(?:fp|bf|int|float|uint)\d+)\b)"
)
"""Messages of PyTorch, NumPy and kernels about tensors that do not fit each other or the kernel."""
_LIBRARY: Final = re.compile(
    r"^\w+: (?:vector::_M_\w+|basic_string::\S+|_?(?:Map|map)(?:_base)?::at|invalid (?:vector|string|map)<\S+ \S+"
    r"|bad_(?:variant_access|optional_access|function_call|any_cast|weak_ptr|cast)|std::bad_(?!alloc)\w+|deque::_M_\w+"
    r"|array::at: .*|stoi|stol|stoull|unordered_map::at)\b"
)
"""Messages of C++'s standard library about a mistake in native code. They name the operation and not the engine."""
_RAISED: Final = re.compile(
    r"^(?:ValueError|RuntimeError|Exception|NotImplementedError|FileNotFoundError|FileExistsError): "
)
_NOT_OWN_FAULT: Final = re.compile(
    r"CUDA|HIP|NPU|XPU|cuBLAS|CUBLAS|NCCL|RCCL|HCCL|ZMQ|memory|[Tt]ime(?:d )?[ -]?out|[Cc]ancel|[Cc]onnect|[Cc]losed|[Rr]emote"
    r"|[Pp]eer|\bsupport|[Uu]nsupported|instal|[Cc]ompil|[Ww]orker|[Pp]rocess|[Ee]ngine|--[a-z]|larger than"
    r"|exceed.*\d|greater than|at (?:most|least)|\bmust\b|\b[Ss]et\b|[Rr]equire|[Pp]lease"
)
"""Words of a refusal, or of another part that failed. Such an exception has another cause than a mistake in the program."""
_NAMES_A_SETTING: Final = re.compile(
    r"--[a-z]|\b[A-Z]+_[A-Z_]{3,}\b|\bsupport|[Uu]nsupported|\binstall|config|\bSM\d|\bsm_?\d|gfx|CUDA|GPU"
)
"""Words for a setting, a device or a package: a refusal, and no mistake."""
_ENGINE: Final = (
    r"(?:vllm(?:_\w+)?|sglang/(?:srt|kernels)|lmdeploy|tensorrt_llm|text_generation_server|aphrodite|lmcache)/"
)
_PASSES_ON: Final = r"(?!.*(?:shm_broadcast|multiproc|core_client|/executor/|device_communicators|rpc))"
"""Files of an engine that report what another process logs."""
_OWN: Final = re.compile(rf'File "[^"]*\b{_ENGINE}{_PASSES_ON}')
_BELOW: Final = re.compile(
    r'File "[^"]*/(?:torch|transformers|flashinfer|numpy|vllm_flash_attn|flash_attn|fla|sgl_kernel)/'
)
"""Frames of the libraries with which an engine computes."""
_OF_A_KERNEL: Final = re.compile(
    r"^(?:RuntimeError|ValueError|NotImplementedError): .*(?:\b(?:must|should|expect(?:s|ed)?|requires?|needs?|got|mismatch)\b.*"
    r"\b(?:tensors?|contiguous|dtypes?|shapes?|rank-?\d|dim(?:ension)?s?|strides?|aligned|u?int(?:8|32|64)|fp(?:8|16|32)|bf16|elements"
    r"|rows|slots?)\b|\b(?:tensors?|dtypes?|shapes?|dim(?:ension)?s?|strides?)\b.*\b(?:must|should|expected|mismatch|match|got|invalid)\b"
    r"|out of (?:bounds|range))"
)
"""Messages of an operation that checks its arguments, in the vocabulary of tensors."""
_OPERATION: Final = re.compile(
    r"/(?:kernels/ops|ops|third_party|vllm_flash_attn|sgl_kernel|fla|layers/attention|attention/backends)/"
)
"""Files of operations, which run on tensors only."""
_IMPORT: Final = re.compile(r", in <module>|<frozen importlib")
_COMPUTING: Final = re.compile(
    r", in \w*(?:forward|execute_model|run_batch|event_loop|executor_loop|prepare_resources|update_resources|embed_multimodal"
    r"|multimodal_embeddings|process_\w+_input|prepare_inputs|update_states|update_from_output)\w*"
    r"|/(?:attention/backends|layers/attention|sgl_kernel|flash_attn|vllm_flash_attn|fla|vllm/(?:v1/)?core|srt/mem_cache)/"
    r"|/managers/schedule(?:_batch|_policy|r_\w+_mixin)\.py"
)
"""Frames of code that runs with the weights loaded, whatever phase the log shows."""

_COMPUTES: Final[tuple[Phase, ...]] = ("kv_cache", "profile", "warm-up", "graphs", "first forward", "serve", "request")
"""Phases after the loading of the weights. Before, a mistake may follow from a configuration or a checkpoint."""
_SERVES: Final[tuple[Phase, ...]] = ("serve", "request")

_PARTS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    (
        "kv-transfer",
        re.compile(r"kv_xfer|kv_transfer|kv_connector|/disaggregation/|\bnixl|mooncake|/lmcache/", re.IGNORECASE),
    ),
    ("structured-output", re.compile(r"grammar|structured_output|\bbitmask\b|guided_dec|/constrained/")),
)
"""Parts of an engine that have their own class, by the words of their files, functions and messages."""


def engine_error(boot: Boot) -> tuple[Kind, str] | None:
    """
    Return the class of a check or operation that failed in the engine's own code during *boot*, with its text and
    place.

    None if the first error of the log is of another kind.
    """
    said = _failed_check(boot)
    return _exception(boot) if said is None else (_part_of(said), said)


def stopped_in_a_step(boot: Boot) -> bool:
    """
    Whether a step of the engine failed in *boot*, by the frames of an exception that nothing caught, and no line after it
    shows work on a request.
    """
    errors = boot.errors
    in_a_step = any(_COMPUTING.search(line) for line in errors.before)
    return in_a_step and errors.ended_at > max(boot.worked_at, boot.served_at or 0)


def _failed_check(boot: Boot) -> str | None:
    """
    Return the failed check that is the first error of the *boot*'s log, or that the engine's own summary quotes; None
    if there is none.

    If the exception has no message, the line of code is included.
    """
    errors = boot.errors
    if errors.text is not None:
        if _NATIVE.search(errors.text):
            return errors.text
        return _of_python(errors.text, errors.before) if _PYTHON.match(errors.text) else None
    because = boot.summary.words.get("because", "") if boot.summary is not None else ""
    if _PYTHON.match(because):
        return because
    said = (errors.native, errors.complaint)
    native = next((line for line in said if line is not None and _NATIVE.search(line)), None)
    return native or _cut_short(boot.traces.values())


def _cut_short(traces: Iterable[Trace]) -> str | None:
    """Return the check at which one of *traces* stops without an exception in the log, with its frame; None if there is none."""
    for trace in traces:
        frame = next((number for number, line in enumerate(trace.tail) if line == trace.frame), None)
        if trace.done or trace.caught or frame is None or _OF_A_SCRIPT.search(trace.frame):
            continue
        code = trace.tail[frame + 1 : frame + 2]
        if code and _CHECK.match(code[0]):
            return f"{code[0].strip()}, {trace.frame.strip()}"
    return None


def _of_python(text: str, before: tuple[str, ...]) -> str | None:
    """
    Return the failed assertion *text* with the last frame and code of the traceback *before* it; None if a script of
    the user raised it.
    """
    frame = next((line.strip() for line in reversed(before) if FRAME.match(line)), "")
    if _OF_A_SCRIPT.search(frame):
        return None
    code = next((line.strip() for line in reversed(before) if line.strip().startswith("assert ")), "")
    return ", ".join(part for part in (text, code, frame) if part)


def _exception(boot: Boot) -> tuple[Kind, str] | None:
    """
    Return the class of the exception that ended the working engine of *boot*, and the exception with its last frame.

    None if the first error of the log is of another kind, or states another cause than a mistake in the engine's code.
    """
    errors = boot.errors
    if errors.text is None:
        return _quoted(boot)
    frame = next((line.strip() for line in reversed(errors.before) if FRAME.match(line)), "")
    if not _counts(errors.text, frame, errors.phase or boot.reached):
        return None
    return _part_of("\n".join((errors.text, *errors.before))), f"{errors.text}, {frame}"


def _quoted(boot: Boot) -> tuple[Kind, str] | None:
    """
    Return the class and the text for the exception that the engine quotes in its summary, if the exception is a mistake and
    the engine was working.
    """
    because = boot.summary.words.get("because") if boot.summary is not None else None
    whole = list(
        worded(because)
    )  # what a wrapper left without its type may be of any, but a mistake of Python is known by it
    said = next((text for text in whole if _TENSORS.match(text) or (text is whole[0] and _MISTAKE.match(text))), None)
    return (_part_of(said), said) if said is not None and boot.reached in _COMPUTES else None


def _part_of(place: str) -> Kind:
    """Return the class of a mistake in the engine's own code, by the words of its *place*: frames, code and message."""
    return next((kind for kind, words in _PARTS if words.search(place)), "engine-assert")


def _counts(text: str, frame: str, phase: Phase) -> bool:
    """Whether exception *text*, raised in *frame* in this *phase* of the boot, is a mistake in the engine's own code."""
    frame = frame.replace("\\", "/")  # paths of Windows
    if _IMPORT.search(frame):
        return False
    own, below = _OWN.search(frame) is not None, _BELOW.search(frame) is not None
    if _LIBRARY.match(text) or (
        _OPERATION.search(frame) and _OF_A_KERNEL.match(text) and not _NAMES_A_SETTING.search(text)
    ):
        return own or below
    if phase not in _COMPUTES and not _COMPUTING.search(frame):
        return own and _LEAVES_OPEN.match(text) is not None
    if _MISTAKE.match(text) or _TENSORS.match(text):
        return own or below
    return own and phase in _SERVES and _RAISED.match(text) is not None and _NOT_OWN_FAULT.search(text) is None
