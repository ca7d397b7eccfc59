"""The reason why a config.json cannot be read, with the key that is not understood."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """The result for a model whose shape is unknown, because of the *key* of its config.json."""

    key: str
    why: str

    def __str__(self) -> str:
        return f"this shape is not understood: {self.key}: {self.why}"


class MisreadError(Exception):
    """Error within the reader, which the reader converts to `NotUnderstood`."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.refusal = NotUnderstood(key, why)
