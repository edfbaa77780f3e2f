"""Fair shares of a model among its clients, by tokens.

Why it exists: a client that sends many or long requests must not delay the others, and requests
differ too much in length to be counted. Every client has a counter of the tokens that were computed
for it, and the one with the smallest goes next: the virtual token counter of Sheng and others,
"Fairness in Serving Large Language Models" (OSDI 2024, arXiv 2401.00588). A client that comes back
is lifted to those that wait, so that idleness earns nothing. For two clients that always have
requests waiting the difference of service stays bounded by twice the larger of the longest prompt
and the tokens that fit into the cache at once, in charged units, whatever the number of requests.

It knows neither priorities nor blocks.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["INPUT_COST", "OUTPUT_COST", "TokenShares"]

INPUT_COST = 1
"""Charged for a token of a prompt that is computed."""
OUTPUT_COST = 2
"""Charged for a generated token: it needs a step of its own; the factor is the paper's."""


class TokenShares:
    """Counters of clients."""

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._living: Counter[str] = Counter()
        self._last = 0.0
        """Counter of the client that left the queue last."""

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._counters)

    def counter(self, client: str) -> float:
        """Charged so far; only differences mean something."""
        return self._counters.get(client, 0.0)

    def arrive(self, client: str) -> None:
        """Say that a sequence of the client came and waits."""
        if not self._waiting[client]:
            others = [self.counter(name) for name, count in self._waiting.items() if count]
            floor = min(others) if others else self._last
            self._counters[client] = max(self.counter(client), floor)
        self._waiting[client] += 1
        self._living[client] += 1

    def wait(self, client: str) -> None:
        """Say that a sequence that ran waits again."""
        self._waiting[client] += 1

    def start(self, client: str) -> None:
        """Say that a waiting sequence of the client runs."""
        self._leave(client)
        self._last = self.counter(client)

    def charge(self, client: str, *, inputs: int = 0, outputs: int = 0) -> None:
        """Charge computed tokens."""
        self._counters[client] += INPUT_COST * inputs + OUTPUT_COST * outputs

    def end(self, client: str, *, waiting: bool) -> None:
        """Say that a sequence of the client is gone.

        Args:
            client: whose it was.
            waiting: whether it waited.
        """
        if waiting:
            self._leave(client)
        self._living[client] -= 1
        if not self._living[client]:
            del self._living[client]
        if not self._living:
            # Nobody is there to be compared with: all start even again.
            self._counters.clear()
            self._last = 0.0
        elif len(self._counters) > 2 * len(self._living) + 64:
            self._forget()

    def _leave(self, client: str) -> None:
        self._waiting[client] -= 1
        if not self._waiting[client]:
            del self._waiting[client]

    def _forget(self) -> None:
        """Forget clients that have nothing here, so that names cannot fill the memory.

        Those charged least go: they would be lifted the most if they came back, so that forgetting
        them changes least.
        """
        gone = sorted(
            (name for name in self._counters if name not in self._living), key=self.counter
        )
        for name in gone[: len(gone) - 32]:
            del self._counters[name]
