"""No block is lost, and none is shared by mistake."""

from __future__ import annotations

from array import array

import pytest
from deepseek_engine.generation.blocks import BlockPool, chain, root
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

SIZE = 4


def names(tokens: list[int], start: bytes = b"") -> list[bytes]:
    previous, found = start or root(), []
    for place in range(0, len(tokens) - SIZE + 1, SIZE):
        previous = chain(previous, array("q", tokens[place : place + SIZE]).tobytes())
        found.append(previous)
    return found


class Holders(RuleBasedStateMachine):
    """Sequences that take, share, fill and give back blocks, beside what must be true of them."""

    @initialize(blocks=st.integers(1, 12))
    def start(self, blocks: int) -> None:
        self.pool = BlockPool(blocks)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        """What was written into each block last."""

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=24))
    def begin(self, tokens: list[int]) -> None:
        wanted = names(tokens)
        found = self.pool.find(wanted)
        for block, name in zip(found, wanted, strict=False):
            assert self.content[block] == name
        missing = -(-len(tokens) // SIZE) - len(found)
        if missing + self.pool.idle(found) > self.pool.free:
            return
        self.pool.hold(found)
        taken = self.pool.take(missing)
        for block in taken:
            assert not any(block in blocks for blocks in self.held)
            self.content[block] = b"being written"
        self.held.append(found + taken)
        for block, name in list(zip(found + taken, wanted, strict=False))[len(found) :]:
            self.content[block] = name
            self.pool.publish(block, name)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.held) - 1))
        self.pool.release(self.held.pop(which))

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        used = {block for blocks in self.held for block in blocks}
        assert self.pool.used == len(used)
        assert self.pool.used + self.pool.free == self.pool.total
        assert 0 <= self.pool.cached <= self.pool.free

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for blocks in self.held:
                self.pool.release(blocks)
            assert self.pool.free == self.pool.total
            # All of them can really be taken.
            assert sorted(self.pool.take(self.pool.total)) == list(range(self.pool.total))


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_block_let_go_longest_ago_is_overwritten_first() -> None:
    pool = BlockPool(3)
    for token in range(3):
        block = pool.take(1)
        pool.publish(block[0], names([token] * SIZE)[0])
        pool.release(block)
    pool.take(1)
    assert [len(pool.find(names([token] * SIZE))) for token in range(3)] == [0, 1, 1]


def test_of_one_sequence_the_end_is_overwritten_before_the_beginning() -> None:
    pool = BlockPool(3)
    tokens = list(range(3 * SIZE))
    blocks = pool.take(3)
    for block, name in zip(blocks, names(tokens), strict=True):
        pool.publish(block, name)
    pool.release(blocks)
    pool.take(2)
    assert pool.find(names(tokens)) == blocks[:1]


def test_what_is_forgotten_is_not_found_and_its_blocks_are_free() -> None:
    pool = BlockPool(4)
    kept, held = pool.take(2)
    pool.publish(kept, b"kept")
    pool.publish(held, b"held")
    pool.release([kept])
    pool.forget()
    assert pool.find([b"kept"]) == pool.find([b"held"]) == []
    assert (pool.free, pool.used, pool.cached) == (3, 1, 0)
    pool.release([held])
    assert (pool.free, pool.cached) == (4, 0)
    assert sorted(pool.take(4)) == [0, 1, 2, 3]


def test_empty_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(2)
    block = pool.take(1)
    pool.publish(block[0], names([0] * SIZE)[0])
    pool.release(block)
    assert pool.take(1) != block
    assert pool.cached == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2, 3, 4], [4, 3, 2, 1]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [9, 2, 3, 4, 5, 6, 7, 8]),
        ([1, 0, 0, 0], [1 << 32, 0, 0, 0]),
    ],
    ids=["order", "another beginning", "large numbers"],
)
def test_other_tokens_have_other_names(one: list[int], other: list[int]) -> None:
    assert names(one)[-1] != names(other)[-1]


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a",), ("b",)), ((), ("",)), (("ab", "c"), ("a", "bc"))],
    ids=["adapters", "none and empty", "borders"],
)
def test_what_else_cached_values_depend_on_is_part_of_the_name(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert names([1, 2, 3, 4], root(*one)) != names([1, 2, 3, 4], root(*other))


def test_what_nobody_may_do_is_refused() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="3 blocks are wanted and 2 are free"):
        pool.take(3)
    block = pool.take(1)
    pool.release(block)
    with pytest.raises(ValueError, match="nobody holds"):
        pool.release(block)
    with pytest.raises(ValueError, match="is free"):
        pool.publish(block[0], b"name")
    with pytest.raises(ValueError, match="needs blocks"):
        BlockPool(0)
