"""
A vLLM plugin that injects one fault into a running engine, to test the tests. Never use it on a server that others use.

`write_plugin` makes a folder for PYTHONPATH. Each process of vLLM loads this package from there as a general plugin.
`CONTROL` names a file. To turn a fault on while the server runs, write its name to that file; an empty file turns it
off. The package runs in the engine's environment, so its modules import only the standard library at the top.

    scheduler  the blocks of a request, and the reports about them
    attention  what attention stores and reads
    runner     the rows of a batch, their positions and logits, the drafts, and transfers
    states     the states of recurrent layers
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

CONTROL = "LONGCTX_FAULT_FILE"
"""Environment variable with the path of the control file."""

_MODULE = "longctx_vllm_faults"

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "wrong-block-on-hit": "the second cached block of a prompt is replaced by its first",
        "swapped-blocks-on-hit": "the second and the third cached block of a prompt are one block of another place",
        "null-block-on-hit": "the last cached block of a prompt is replaced by the block that is never written",
        "one-block-too-many": "a hit claims one block more than the cache has",
        "one-block-too-few": "a hit gives one block fewer than the cache has",
        "never-hits": "no prompt is found in the cache",
        "hash-without-last-token": "the key of a block leaves out its last token",
        "hash-without-parent": "the key of a block leaves out the blocks before it",
        "salt-ignored": "the key of a block leaves out the salt of its request",
        "stale-after-eviction": "an evicted block stays in the table of cached blocks, with the content of another prompt",
        "reset-does-nothing": "a reset of the prefix cache is confirmed and not done",
        "block-given-twice": "a new request gets a block that another request is using",
        "preempted-as-computed": "a preempted request goes on as if its first block were still computed",
        "abandoned-as-computed": "a prompt whose client left is cached one block beyond what was computed",
        "counts-too-much": "usage reports 128 cached tokens more than there were",
        "counts-nothing": "usage reports no cached tokens",
        "wrong-block": "attention reads the first block of a request in place of its second",
        "swapped-requests": "the first two requests of a batch read each other's blocks",
        "wrong-block-in-company": "with four requests or more, attention reads the first block in place of the second",
        "wrong-block-beside-a-prompt": "beside a prompt that is read, answers read the first block in place of the second",
        "wrong-block-far": "beyond 8,192 tokens attention reads the first block in place of the second",
        "wrong-block-at-border": "four answered tokens behind the border of a block read the first block, not the second",
        "values-halved": "values of the last layer are stored as half of what they are",
        "values-of-hits-scaled": "once a prompt was hit, attention returns 1.1 times what it computes",
        "keys-zeroed": "keys of the last layer are stored as zero",
        "writes-lost": "every second call stores no keys and values",
        "last-of-chunk-lost": "the last token of each prefill chunk is not stored",
        "answer-not-stored": "keys and values of answered tokens are not stored",
        "window-too-small": "an attention window is one token smaller",
        "window-too-large": "an attention window is one token larger",
        "sinks-left-out": "attention leaves out its sinks",
        "scale-lost-on-hit": "once a prompt was hit, the scale of its queries is halved",
        "position-off-by-one-on-hit": "once a prompt was hit, positions are one too high",
        "logits-of-another": "each request of a batch gets the logits of the one before it",
        "row-not-moved": "a request that changes its row in the batch leaves its blocks behind",
        "drafts-all-accepted": "every drafted token is accepted",
        "transfer-cut-short": "a load from outside the engine ends before its last layer",
        "transfer-of-another": "a load from outside the engine finds a prompt by its first 128 tokens alone",
        "state-not-reset": "a new request begins with the state that another left behind",
        "state-not-restored": "the second chunk of a prompt begins with an empty state",
        "convolution-not-restored": "the second chunk of a prompt begins with an empty state of the convolution",
        "states-swapped": "the first two answers of a batch use each other's states",
        "nan": "a value of the last layer is stored as NaN",
    }
)
"""Maps each fault to its description."""


def armed() -> str:
    """Return the name of the injected fault; empty if no fault is injected."""
    path = os.environ.get(CONTROL, "")
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else ""
    except OSError:
        return ""


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace the function *name* of *owner* by the function that *make* returns for it, to inject a fault."""
    setattr(owner, name, make(getattr(owner, name)))


def write_plugin(folder: Path) -> dict[str, str]:
    """
    Write the plugin and its control file into *folder*, and return the environment variables that load the plugin into
    a server.
    """
    info, package = folder / f"{_MODULE}-0.dist-info", folder / _MODULE
    for each in (info, package):
        each.mkdir(parents=True, exist_ok=True)
    for module in Path(__file__).parent.glob("*.py"):
        (package / module.name).write_bytes(module.read_bytes())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_MODULE}\nVersion: 0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{_MODULE} = {_MODULE}:install\n", encoding="utf-8")
    control = folder / "armed"
    control.write_text("", encoding="utf-8")
    return {"PYTHONPATH": str(folder), CONTROL: str(control)}


def install() -> None:
    """Wrap the engine's functions with all faults. vLLM calls this function in each process."""
    from . import attention, runner, scheduler, states

    for module in (scheduler, attention, runner, states):
        module.install()
