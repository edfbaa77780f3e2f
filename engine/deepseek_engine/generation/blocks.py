"""Blocks of the cache: who holds which, and which can be used again for an equal beginning.

Why it exists: keys and values of a sequence lie in blocks of a fixed number of positions, so that
memory is neither reserved for the longest answer nor moved when one grows. A full block is named by
a hash of all tokens up to its end; a sequence that begins with the same tokens takes the same block
instead of computing it. Blocks that nobody holds keep their content until the space is needed, and
the one let go longest ago is overwritten first.

It knows neither sequences nor tensors: numbers of blocks in, numbers of blocks out. It must not be
called from two threads.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

__all__ = ["BlockPool", "chain", "root"]

_HASH_BYTES = 16
"""Two beginnings that differ must never be taken for equal: a client would read another's text.
128 bits of a cryptographic hash exclude it, also when a client searches for one on purpose."""


def root(*parts: str) -> bytes:
    """The name before the first block: everything but tokens that keys and values depend on.

    Args:
        parts: for example the adapter and the number format of the cache.
    """
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()


def chain(previous: bytes, tokens: bytes) -> bytes:
    """The name of a full block.

    Args:
        previous: the name of the block before it, or the root.
        tokens: its tokens as the bytes of an int64 array.
    """
    return hashlib.blake2b(tokens, key=previous, digest_size=_HASH_BYTES).digest()


class BlockPool:
    """Counts who holds each block.

    A block is held (its count is above 0), free and empty, or free and cached. Only full blocks
    whose keys and values were computed may be cached.
    """

    def __init__(self, blocks: int) -> None:
        """All blocks are free and empty.

        Raises:
            ValueError: there is none.
        """
        if blocks < 1:
            raise ValueError(f"a pool needs blocks, not {blocks}")
        self.total = blocks
        self._holders = [0] * blocks
        self._empty = deque(range(blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Free blocks with content, the one let go longest ago first."""
        self._named: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._empty) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return self.total - self.free

    @property
    def cached(self) -> int:
        """Free blocks with content that can be used again."""
        return len(self._cached)

    def find(self, names: Iterable[bytes]) -> list[int]:
        """The blocks of the longest beginning whose content is there; takes none of them."""
        found = []
        for name in names:
            block = self._named.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of the blocks nobody holds: holding them takes so many from the free ones."""
        return sum(self._holders[block] == 0 for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks that `find` gave, besides whoever holds them already."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._cached[block]
            self._holders[block] += 1

    def take(self, count: int) -> list[int]:
        """Hold so many blocks for new content, empty ones first.

        Raises:
            ValueError: fewer are free; none is taken.
        """
        if count > self.free:
            raise ValueError(f"{count} blocks are wanted and {self.free} are free")
        taken = []
        for _ in range(count):
            if self._empty:
                block = self._empty.popleft()
            else:
                block, _ = self._cached.popitem(last=False)
                del self._named[self._names.pop(block)]
            self._holders[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, name: bytes) -> None:
        """Let others find a held block that was filled.

        Where another block has the same content already, that one stays the one that is found.

        Raises:
            ValueError: nobody holds the block, or it has a name.
        """
        if self._holders[block] == 0 or block in self._names:
            raise ValueError(f"block {block} is free or has a name already")
        if name not in self._named:
            self._named[name] = block
            self._names[block] = name

    def forget(self) -> None:
        """Let nobody find any content again: what the blocks held is gone."""
        self._empty.extend(self._cached)
        self._cached.clear()
        self._named.clear()
        self._names.clear()

    def release(self, blocks: Sequence[int]) -> None:
        """Stop holding a sequence's blocks, given in the order of its positions.

        Its last block is let go first, so that it is overwritten before those that more beginnings
        have in common.

        Raises:
            ValueError: nobody holds one of them.
        """
        for block in reversed(blocks):
            if self._holders[block] == 0:
                raise ValueError(f"block {block} is released and nobody holds it")
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._names:
                    self._cached[block] = None
                else:
                    self._empty.append(block)
