"""Waiting for the API server when the operator starts.

Why it exists: a node that restarts, or an upgrade of the control plane, starts the operator before
the API server answers. Ending at once would make the kubelet wait longer from time to time, up to
minutes after the server is back. What waiting does not mend ends the operator at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from deepseek_operator.cluster import Throttled, Unauthorized, Unavailable

__all__ = ["PATIENCE_S", "kind_is_served"]

PATIENCE_S: Final = 60.0
"""An API server that does not answer is waited for so long; the chart's startup probe allows for
more."""
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 5.0
_log = logging.getLogger(__name__)


async def kind_is_served(
    ask: Callable[[], Awaitable[bool]],
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> bool:
    """Whether the API server knows ModelPipelines, once it answers.

    Args:
        ask: asks the server.
        clock: monotonic seconds.
        sleep: waits for so many seconds.

    Raises:
        Unauthorized: the credentials are refused.
        Rejected: they do not suffice.
        Unavailable: there was no answer for `PATIENCE_S` seconds.
    """
    deadline = clock() + PATIENCE_S
    pause = _FIRST_S
    while True:
        try:
            return await ask()
        except Unauthorized:
            raise
        except Unavailable as error:
            wait = max(pause, error.retry_after_s) if isinstance(error, Throttled) else pause
            if clock() + wait >= deadline:
                raise
            _log.warning("The API server does not answer yet, next try in %.1f s: %s", wait, error)
        await sleep(wait)
        pause = min(2 * pause, _LONGEST_S)
