"""Which classes of Transformers an engine may fall back to, read from the wheel of Transformers without importing it."""

import ast
import re

from tests.engine_version.source import Tree, text

GENERATES = re.compile(r"\w+(ForCausalLM|ForConditionalGeneration|LMHeadModel)")
ATTENDS = re.compile(r"^class \w*Attention\w*\(nn\.Module\):", re.MULTILINE)
GETS = "ALL_ATTENTION_FUNCTIONS.get_interface("
HELD = "_supports_attention_backend"


def forms(tree: Tree) -> dict[str, list[str]]:
    """
    The classes that generate text, by how their attention can be replaced: by a declared backend, only by the
    interface of the module, or not.

    The rules are ``PreTrainedModel.is_backend_compatible`` and ``_can_set_attn_implementation``.
    """
    found: dict[str, list[str]] = {"attention_backend": [], "attention_interface": [], "neither": []}
    for path in tree.paths:
        if not re.fullmatch(r"transformers/models/\w+/modeling_\w+\.py", path):
            continue
        source = tree.source(path)
        classes = {node.name: node for node in tree.parsed(path).body if isinstance(node, ast.ClassDef)}
        gets = GETS in source or not ATTENDS.search(source)
        for name in filter(GENERATES.fullmatch, classes):
            if not name.startswith("Auto"):
                form = "attention_backend" if declared(name, classes) else "attention_interface" if gets else "neither"
                found[form].append(name)
    return {form: sorted(set(names)) for form, names in found.items()}


def declared(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether a class, or the nearest of those that it is made from in its module, declares its attention replaceable."""
    for each in classes[name].body:
        match each:
            case ast.Assign(targets=[ast.Name(id=held)], value=ast.Constant(value=value)) if held == HELD:
                return bool(value)
    above = [text(base).rpartition(".")[2] for base in classes[name].bases]
    return any(declared(base, classes) for base in above if base in classes and base != name)
