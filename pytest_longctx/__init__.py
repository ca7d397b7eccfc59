"""A pytest plugin and conformance suite for long-context LLM serving."""

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).parent
if not (_HERE / "suites").is_dir() and (_HERE.parent / "suites").is_dir():
    # A wheel has the suites in the package. In a checkout they stand beside it, and are found under the same name.
    __path__.append(str(_HERE.parent))
