"""Shapes of models, read from the models' config.json."""

from pytest_longctx.shapes.model import ModelShape
from pytest_longctx.shapes.reader import read
from pytest_longctx.shapes.refusal import NotUnderstood

__all__ = ["ModelShape", "NotUnderstood", "read"]
