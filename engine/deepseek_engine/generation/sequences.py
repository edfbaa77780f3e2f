"""One sequence that generates: its tokens, its blocks, and how far it was computed.

Why it exists: scheduler, step runner and sampler look at the same sequence; this is the state that
they share. A prompt, an answer and what has to be computed again after a preemption are the same
thing here: tokens whose keys and values are not in the cache yet. It decides nothing and imports no
runtime.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Any

from deepseek_engine.generation.blocks import chain
from deepseek_engine.generation.requests import GenerationRequest

__all__ = ["Sequence", "StepPlan", "Work"]


@dataclass(slots=True, eq=False)
class Sequence:
    """A living sequence."""

    id: int
    request: GenerationRequest
    tokens: array[int]
    """Prompt and answer, int64."""
    prompt: int
    """Tokens of the prompt."""
    max_tokens: int
    """Most tokens of the answer; prompt and answer fit into context and cache."""
    arrival: int
    """Counts up from sequence to sequence."""
    root: bytes
    """Name before the first block."""
    blocks: array[int] = field(default_factory=lambda: array("i"))
    names: list[bytes] = field(default_factory=list)
    """Names of the full blocks, as far as they were asked for."""
    computed: int = 0
    """Positions whose keys and values are in the cache."""
    published: int = 0
    """Blocks that were offered to others, or taken from them."""
    reused: int | None = None
    """Tokens of the prompt that did not have to be computed; None before the first step."""
    queue_s: float = 0.0
    """From arrival to the first step."""
    arrived_at: float = 0.0
    preemptions: int = 0
    aborted: bool = False
    choice: Any = None
    """What the sampler keeps of this sequence."""
    text: Any = None
    """What turns its tokens into text and looks for stops."""
    adapter: int = -1
    """Number of its adapter in the model; -1: none."""

    @property
    def generated(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - self.prompt

    @property
    def rank(self) -> tuple[float, int]:
        """Smaller is served first: explicit priorities in order, then those without one."""
        priority = self.request.priority
        return (priority if priority > 0 else math.inf, self.arrival)

    @property
    def pending(self) -> int:
        """Tokens that were not computed yet; 1 while it decodes."""
        return len(self.tokens) - self.computed

    def names_until(self, blocks: int, block_size: int) -> list[bytes]:
        """Names of its first full blocks."""
        while len(self.names) < blocks:
            start = len(self.names) * block_size
            previous = self.names[-1] if self.names else self.root
            self.names.append(chain(previous, self.tokens[start : start + block_size].tobytes()))
        return self.names[:blocks]


@dataclass(slots=True, frozen=True, eq=False)
class Work:
    """What a step computes of one sequence."""

    sequence: Sequence
    start: int
    """First position."""
    count: int
    """Positions of known tokens."""
    samples: bool
    """Whether the sequence gets a new token: nothing of it is pending after this step."""
    guesses: Tokens[int] = ()
    """Tokens guessed to follow them; computed too."""

    @property
    def tokens(self) -> int:
        """All positions of the step."""
        return self.count + len(self.guesses)


@dataclass(slots=True, frozen=True, eq=False)
class StepPlan:
    """The work of one step."""

    work: tuple[Work, ...]

    @property
    def tokens(self) -> int:
        """Positions that the step computes."""
        return sum(work.tokens for work in self.work)
