"""What each step computes: continuous batching within a budget of tokens.

Why it exists: sequences join and leave between steps, so that no one waits for the longest. Every
running sequence that decodes gets its token first; what is left of the budget goes to prompts, in
chunks, so that a long prompt delays nobody by more than a step. Blocks for a whole prompt are taken
when it starts, those of an answer one by one. When none is left, the newest sequence of the lowest
priority gives its blocks back and computes them again later; its tokens stay the same.

Order of waiting sequences: explicit priority, then those that were interrupted, then the client
that was served least (`shares`), then arrival. The first of them is never passed over by one that
needs fewer blocks.

It knows no tensors, no text and no model; the clock is given. One thread calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens

from deepseek_engine.generation.blocks import BlockPool
from deepseek_engine.generation.interface import GeneratorStats
from deepseek_engine.generation.sequences import Sequence, StepPlan, Work
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.generation.shares import TokenShares

__all__ = ["Guesser", "Scheduler", "blocks_for"]

Guesser = Callable[[Sequence, int], Tokens[int]]
"""Guesses at most so many tokens to follow a sequence's."""


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold so many positions."""
    return -(-tokens // block_size)


class Scheduler:
    """All living sequences of a model."""

    def __init__(
        self,
        settings: GenerationSettings,
        blocks: int,
        *,
        clock: Callable[[], float],
        guess: Guesser | None = None,
    ) -> None:
        """Start with none.

        Args:
            settings: the model's.
            blocks: of the cache.
            clock: seconds, monotonic.
            guess: proposes tokens of a sequence that decodes.
        """
        self.pool = BlockPool(blocks)
        self.shares = TokenShares()
        self.counts = GeneratorStats(blocks_total=blocks)
        """Its counters are kept here; gauges are filled in by `stats`."""
        self._settings = settings
        self._size = settings.block_size
        self._clock = clock
        self._guess = guess
        self._running: list[Sequence] = []
        """By rank."""
        self._waiting: dict[int, Sequence] = {}
        """By arrival: a caller may use a number again while its aborted sequence runs."""
        self._planned: StepPlan | None = None

    @property
    def waiting(self) -> int:
        """Sequences that hold no blocks."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that hold blocks, aborted ones of the planned step included."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait; it must fit into the pool alone."""
        sequence.arrived_at = self._clock()
        self._waiting[sequence.arrival] = sequence
        self.shares.arrive(sequence.request.client)

    def end(self, sequence: Sequence) -> None:
        """Forget a sequence and let its blocks go."""
        waiting = self._waiting.pop(sequence.arrival, None) is not None
        if not waiting:
            self._running.remove(sequence)
            self._release(sequence)
        self.shares.end(sequence.request.client, waiting=waiting)

    def plan(self) -> StepPlan | None:
        """Choose the work of the next step; None: there is nothing to do.

        Raises:
            RuntimeError: the last plan was not settled.
        """
        if self._planned is not None:
            raise RuntimeError("a step is planned while another one runs")
        work: list[Work] = []
        self._interrupt()
        budget, short = self._decode(work)
        budget = self._continue(work, budget)
        if not short:
            self._start(work, budget)
        if not work:
            return None
        self._planned = StepPlan(tuple(work))
        return self._planned

    def settle(self, plan: StepPlan, *, failed: bool = False) -> None:
        """Account for a step that was computed, before its tokens are added to the sequences.

        Raises:
            RuntimeError: it is not the plan that runs.
        """
        if plan is not self._planned:
            raise RuntimeError("a step is settled that was not planned last")
        self._planned = None
        if failed:
            return
        self.counts.steps += 1
        for work in plan.work:
            sequence = work.sequence
            sequence.computed = work.start + work.count
            self.counts.prompt_tokens += max(
                0, min(sequence.computed, sequence.prompt) - work.start
            )
            if self._settings.prefix_reuse and not sequence.aborted:
                self._publish(sequence)

    def extend(self, sequence: Sequence, tokens: Tokens[int]) -> None:
        """Add generated tokens; all but the last were computed in the step that gave them."""
        if not tokens:
            return
        sequence.tokens.extend(tokens)
        sequence.computed += len(tokens) - 1
        self.counts.generated_tokens += len(tokens)
        self.shares.charge(sequence.request.client, outputs=len(tokens))

    def stats(self) -> GeneratorStats:
        """A snapshot."""
        counts = self.counts
        return GeneratorStats(
            running=self.running,
            waiting=self.waiting,
            blocks_total=self.pool.total,
            blocks_used=self.pool.used,
            blocks_cached=self.pool.cached,
            steps=counts.steps,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            generated_tokens=counts.generated_tokens,
            preemptions=counts.preemptions,
            guessed_tokens=counts.guessed_tokens,
            accepted_tokens=counts.accepted_tokens,
        )

    def _decode(self, work: list[Work]) -> tuple[int, bool]:
        """Let everyone who decodes go on; what is left, and whether blocks ran short."""
        decoding = [sequence for sequence in self._running if sequence.pending == 1]
        # Guesses take what prompts leave: those are certain to be needed.
        prompts = sum(s.pending for s in self._running if s.pending > 1)
        if self._waiting and len(self._running) < self._settings.max_sequences:
            prompts += max(sequence.pending for sequence in self._waiting.values())
        spare = self._settings.token_budget - len(decoding) - prompts
        short = False
        # By rank: a sequence whose blocks are taken comes later here than whoever takes them.
        for sequence in decoding:
            if sequence.arrival in self._waiting:
                continue
            if not self._grow(sequence, len(sequence.tokens)):
                short = True
                continue
            guesses = self._guesses(sequence, spare)
            spare -= len(guesses)
            work.append(Work(sequence, sequence.computed, 1, samples=True, guesses=guesses))
        return self._settings.token_budget - sum(w.tokens for w in work), short

    def _guesses(self, sequence: Sequence, spare: int) -> Tokens[int]:
        # The last token of an answer needs no place in the cache, nor does a guess behind it.
        most = min(spare, sequence.max_tokens - sequence.generated - 1)
        if self._guess is None or most < 1:
            return ()
        guesses = self._guess(sequence, most)
        free = self.pool.free - len(self._running)
        room = (len(sequence.blocks) + max(0, free)) * self._size - len(sequence.tokens)
        guesses = guesses[: max(0, room)]
        if guesses:
            self._grow(sequence, len(sequence.tokens) + len(guesses))
        return guesses

    def _grow(self, sequence: Sequence, positions: int) -> bool:
        """Hold enough blocks, if need be those of a sequence that ranks behind this one."""
        missing = blocks_for(positions, self._size) - len(sequence.blocks)
        while missing > self.pool.free:
            victim = self._running[-1]
            if victim.rank <= sequence.rank:
                return False
            self._preempt(victim)
        if missing > 0:
            sequence.blocks.extend(self.pool.take(missing))
        return True

    def _continue(self, work: list[Work], budget: int) -> int:
        """Go on with prompts that were begun; what is left of the budget."""
        begun = [sequence for sequence in self._running if sequence.pending > 1]
        for sequence in sorted(begun, key=self._order):
            if budget < 1:
                break
            budget -= self._chunk(work, sequence, budget)
        return budget

    def _start(self, work: list[Work], budget: int) -> None:
        """Begin waiting sequences while budget, seats and blocks last."""
        while budget > 0 and self._waiting:
            sequence = min(self._waiting.values(), key=self._order)
            found, need = self._need(sequence)
            full = len(self._running) >= self._settings.max_sequences
            if full or need > self.pool.free:
                break
            self._seat(sequence, found)
            budget -= self._chunk(work, sequence, budget)

    def _order(self, sequence: Sequence) -> tuple[float, bool, float, int]:
        priority, arrival = sequence.rank
        client = self.shares.counter(sequence.request.client)
        return (priority, not sequence.preemptions, client, arrival)

    def _interrupt(self) -> None:
        """Make room for the first waiting sequence among those of lower classes, if it needs it."""
        if not self._waiting:
            return
        sequence = min(self._waiting.values(), key=self._order)
        lower = [other for other in self._running if other.rank[0] > sequence.rank[0]]
        # Those who stay and decode take their next block before anyone begins.
        stay = [other for other in self._running if other.rank[0] <= sequence.rank[0]]
        growth = sum(
            max(0, blocks_for(len(other.tokens), self._size) - len(other.blocks)) for other in stay
        )
        _, need = self._need(sequence)
        if need + growth > self.pool.free + sum(len(other.blocks) + 1 for other in lower):
            return
        while lower and (
            len(self._running) >= self._settings.max_sequences
            or self._need(sequence)[1] + growth > self.pool.free
        ):
            self._preempt(lower.pop())

    def _need(self, sequence: Sequence) -> tuple[list[int], int]:
        """Blocks that can be used again, and how many free ones it takes to begin."""
        total = blocks_for(len(sequence.tokens), self._size)
        found: list[int] = []
        if self._settings.prefix_reuse:
            # One token at least is computed: its scores give the next one.
            full = (len(sequence.tokens) - 1) // self._size
            found = self.pool.find(sequence.names_until(full, self._size))
        # Everyone who runs may need a block soon; without this margin the newest sequence would
        # often be interrupted at once.
        return found, total - len(found) + self.pool.idle(found) + len(self._running)

    def _seat(self, sequence: Sequence, found: list[int]) -> None:
        self.pool.hold(found)
        missing = blocks_for(len(sequence.tokens), self._size) - len(found)
        sequence.blocks.extend(found)
        sequence.blocks.extend(self.pool.take(missing))
        sequence.computed = len(found) * self._size
        sequence.published = len(found)
        del self._waiting[sequence.arrival]
        self._running.append(sequence)
        self._running.sort(key=lambda other: other.rank)
        self.shares.start(sequence.request.client)
        if sequence.reused is None:
            sequence.reused = sequence.computed
            sequence.queue_s = self._clock() - sequence.arrived_at
            self.counts.cached_tokens += sequence.computed
            self.shares.charge(sequence.request.client, inputs=sequence.prompt - sequence.computed)

    def _chunk(self, work: list[Work], sequence: Sequence, budget: int) -> int:
        count = min(budget, sequence.pending)
        work.append(Work(sequence, sequence.computed, count, samples=count == sequence.pending))
        return count

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        sequence.computed = sequence.published = 0
        sequence.preemptions += 1
        self.counts.preemptions += 1
        self._waiting[sequence.arrival] = sequence
        self.shares.wait(sequence.request.client)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        del sequence.blocks[:]

    def _publish(self, sequence: Sequence) -> None:
        full = sequence.computed // self._size
        if full > sequence.published:
            names = sequence.names_until(full, self._size)
            for place in range(sequence.published, full):
                self.pool.publish(sequence.blocks[place], names[place])
            sequence.published = full
