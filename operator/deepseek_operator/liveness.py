"""Whether the operator does its work, for the liveness probe.

Why it exists: a process that turns but watches nothing, or whose queue stands still, has to be
restarted, and nobody but itself can tell. `WatchedPaths` sees every request of the watching
sessions, so what it says was really answered by the API server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType

from deepseek_operator.resources import WATCHED_KINDS, collection_path
from deepseek_operator.workqueue import WorkQueue

__all__ = ["Liveness", "Unhealthy", "WatchedPaths"]

STALLED_S: Final = 300.0
"""A queue in which something is due and nothing is finished for this long is stuck."""


class Unhealthy(Exception):
    """The operator does not do its work; the message says why."""


class WatchedPaths:
    """Collections whose watch has been open at least once; a middleware for HTTP sessions.

    A watch is opened after the list before it was taken over completely, so an answered watch
    means a complete list.

    Args:
        namespaces: the watched ones; empty: the whole cluster.
    """

    def __init__(self, namespaces: Sequence[str]) -> None:
        self._missing = {
            collection_path(kind, namespace)
            for kind in WATCHED_KINDS
            for namespace in namespaces or (None,)
        }

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of the collections that were never watched."""
        return tuple(sorted(self._missing))

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Pass a request on and note an answered watch."""
        response = await handler(request)
        if self._missing and response.status == 200 and request.url.query.get("watch") == "true":
            self._missing.discard(request.url.path)
        return response


class Liveness:
    """The verdict.

    Args:
        clock: monotonic seconds.
        queue: the queue.
        watched: what is watched.
        resync_s: time between two looks at every pipeline.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        queue: WorkQueue,
        watched: WatchedPaths,
        resync_s: float,
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._watched = watched
        self._resync_s = resync_s
        self._resynced = clock()

    def resync_turned(self) -> None:
        """The resync tried to list the pipelines, with success or without."""
        self._resynced = self._clock()

    def check(self) -> None:
        """Pass if everything moves.

        Raises:
            Unhealthy: something does not.
        """
        if missing := self._watched.missing:
            raise Unhealthy(f"These were never listed and watched: {', '.join(missing)}.")
        stalled = self._queue.stalled_for()
        if stalled > STALLED_S:
            raise Unhealthy(f"No pipeline was finished for {stalled:.0f} s although some are due.")
        quiet = self._clock() - self._resynced
        if quiet > 3 * self._resync_s + STALLED_S:
            raise Unhealthy(f"The pipelines were not listed again for {quiet:.0f} s.")
