"""The tokenizer of a model (extra ``[hf]``). Files are downloaded only on request."""

import hashlib
import importlib
import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.token_ids import Ids


@dataclass(frozen=True, eq=False)
class ModelTokenizer:
    """A tokenizer of the ``tokenizers`` package, loaded from any of its file formats."""

    rust: Any = field(repr=False)

    def __post_init__(self) -> None:
        # A tokenizer.json may enable truncation at 512 tokens. Servers ignore that, and prompts must not be truncated.
        self.rust.no_truncation()
        self.rust.no_padding()

    @cached_property
    def digest(self) -> str:
        """Digest of the whole tokenizer: vocabulary, merges and rules."""
        return hashlib.sha256(self._written.encode()).hexdigest()

    @cached_property
    def _written(self) -> str:
        return str(self.rust.to_str())

    @cached_property
    def special(self) -> int:
        """Number of tokens that a server adds to a text."""
        return int(self.rust.num_special_tokens_to_add(is_pair=False))

    @cached_property
    def lead(self) -> Ids:
        """Tokens that a server adds before a text: BOS, or none."""
        bare, full = self.ids("a"), self.ids("a", special=True)
        places = [at for at in range(full.size) if np.array_equal(full[at : at + bare.size], bare)]
        return full[: places[0]] if places else full[:0]

    @cached_property
    def longest_token(self) -> int:
        """Length in characters of the longest vocabulary entry, which vLLM uses for its character limit."""
        return max(len(token) for token in self.rust.get_vocab())

    @cached_property
    def stops(self) -> Ids:
        """Token ids that end a sentence."""
        return np.array([each for token, each in self.rust.get_vocab().items() if token.endswith(".")], dtype=np.uint32)

    @cached_property
    def unknown(self) -> int | None:
        """Id of the unknown token; None if the tokenizer has none."""
        model = json.loads(self._written)["model"]
        found: int | None = model.get("unk_id")
        return self.rust.token_to_id(model["unk_token"]) if model.get("unk_token") else found

    def ids(self, text: str, *, special: bool = False) -> Ids:
        """Return the token ids of a short text. The ids are first a list, which is too large for a long text."""
        return np.array(self.rust.encode(text, add_special_tokens=special).ids, dtype=np.uint32)

    def count(self, text: str, *, special: bool = False) -> int:
        """
        Return the number of tokens of *text*, encoded in one call as a server does, at about 600 bytes of memory per
        token.
        """
        return len(self.rust.encode_batch_fast([text], add_special_tokens=special)[0])

    def decode(self, ids: Ids) -> str:
        """Return the text of a few ids."""
        return str(self.rust.decode(ids.tolist(), skip_special_tokens=False))


def needed(name: str) -> Any:
    """Return the module *name* of the extra ``[hf]``. Raises `PromptError` with the installation command."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise PromptError(
            f"prompts of text need the package {name}, which is not installed\n"
            "  try      pip install 'pytest-longctx[hf]', or prompts of random ids, which need no package"
        ) from None


@lru_cache(maxsize=4)
def load(where: str, *, download: bool = False) -> ModelTokenizer:
    """
    Return the model's tokenizer from the folder or file *where*, or by model name from the local Hugging Face cache.

    The tokenizer is downloaded only with *download*. Raises `PromptError`.
    """
    path = Path(where).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            return ModelTokenizer(needed("tokenizers").Tokenizer.from_file(str(file)))
        loaded = needed("transformers").AutoTokenizer.from_pretrained(where, local_files_only=not download)
    except PromptError:
        raise
    except Exception as problem:  # noqa: BLE001 - these packages raise it bare for a file they cannot read
        raise PromptError(
            f"the tokenizer of {where} cannot be loaded: {str(problem).splitlines()[0]:.200}\n"
            f"  checked  {file}{'' if download else ' and the local Hugging Face cache'}\n"
            "  try      the path of a folder with tokenizer.json in the deployment's [model]"
        ) from None
    if not hasattr(loaded, "backend_tokenizer"):
        raise PromptError(f"the tokenizer of {where} has no fast variant, so text of an exact length cannot be made")
    return ModelTokenizer(loaded.backend_tokenizer)
