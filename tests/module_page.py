"""
Write docs/reference/modules.md: every module with the first paragraph of its docstring.

Run ``python -m tests.module_page`` after a module was added, moved or renamed.
"""

import ast
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pytest_longctx"
PAGE = ROOT / "docs/reference/modules.md"
HEAD = """# Modules

One line for each module, to find where something is or where it belongs. [Architecture](../explanation/house.md) says which package
may import which. `python -m tests.module_page` writes this page from the modules' docstrings.
"""


def page() -> str:
    """The text of the page."""
    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE / "suites"
    }
    top = {name for name in names if "." not in name and names[name].stem != "__init__"} | {"__init__"}
    parts = [HEAD, _table("Top level", {name: names[name] for name in sorted(top)})]
    for package, some in groupby(sorted(set(names) - top), lambda name: name.partition(".")[0]):
        parts.append(_table(f"`{package}`", {name: names[name] for name in some}))
    return "\n".join(parts)


def _table(title: str, modules: dict[str, Path]) -> str:
    rows = "\n".join(f"| `{name}` | {_summary(path)} |" for name, path in modules.items())
    return f"## {title}\n\n| module | holds |\n| --- | --- |\n{rows}\n"


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
