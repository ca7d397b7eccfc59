"""
Predict a run, or the server of a command, without booting a server.

`pytest_longctx.plan.runs` plans what findings need, `pytest_longctx.plan.typed` a command, a manifest or a file. Names
of `runs` are imported at their first use, so that `typed` starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_longctx.plan.runs import (
        Plan,
        Row,
        expected_ttft_s,
        make,
        predict,
        predict_deployment,
        roughly,
        unpredicted,
    )

__all__ = ["Plan", "Row", "expected_ttft_s", "make", "predict", "predict_deployment", "roughly", "unpredicted"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # a submodule is asked for, too, before it is imported
        raise AttributeError(name)
    return getattr(import_module("pytest_longctx.plan.runs"), name)
