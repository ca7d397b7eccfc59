"""A prefix cache of token blocks, as in engines: the number of tokens at the start of a prompt that were read before."""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

from pytest_longctx.miniatures.hosted.tokens import Ids


@dataclass
class PrefixCache:
    """Blocks of prompts that were read. The key of a block is the hash of its tokens and of all tokens before it."""

    block_tokens: int = 16
    minimum_tokens: int = 0
    """A shorter common prefix is not reported. Some providers report from 1,024 tokens on."""
    capacity_blocks: int = 1 << 18
    _blocks: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def read(self, ids: Ids, salt: str = "") -> int:
        """
        Store *ids* in the prefix cache under *salt*, and return the number of cached tokens: whole blocks, without the
        last token.
        """
        data, width = memoryview(ids).cast("B"), self.block_tokens * ids.itemsize
        before, found, matching = hash(salt), 0, True
        with self._lock:
            for start in range(0, len(data) - width + 1, width):
                before = hash((before, bytes(data[start : start + width])))
                matching = matching and before in self._blocks
                found += matching
                self._blocks[before] = None
                self._blocks.move_to_end(before)
            while len(self._blocks) > self.capacity_blocks:
                self._blocks.popitem(last=False)
        tokens = min(found, (len(ids) - 1) // self.block_tokens) * self.block_tokens
        return tokens if tokens >= self.minimum_tokens else 0
