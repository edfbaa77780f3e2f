"""The one thread that may run a device's models.

Why it exists: every batch crosses to this thread and back. A pool of the standard library makes a
future, a condition and a semaphore for each crossing, and their locks let the two threads fight for
the interpreter: there and back took 33 to 102 microseconds with it and 20 to 31 with a bare queue
(medians, measured in turns on two cores). Otherwise it does what such a pool does: functions
run in order, those that wait when it stops are dropped, and one that runs when the interpreter ends
is waited for, because a runtime must not be torn down under it. It knows nothing of batches.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["DeviceThread"]

logger = logging.getLogger(__name__)

R = TypeVar("R")
_Function = Callable[[], None]
_Item = tuple[_Function, "Future[object] | None"]


class DeviceThread:
    """Runs functions one after the other."""

    def __init__(self, name: str) -> None:
        """Start the thread; it ends with `stop`, or when nobody holds this object any more.

        Args:
            name: of the thread, as debuggers show it.
        """
        self._thread = _Thread(name)
        self._stopped = False
        weakref.finalize(self, self._thread.items.put, None)
        self._thread.start()

    def run(self, function: _Function) -> None:
        """Run a function after those that were given before; it tells its end itself.

        What it raises is logged.

        Raises:
            RuntimeError: the thread was stopped.
        """
        self._put((function, None))

    async def call(self, function: Callable[[], R]) -> R:
        """Run a function after those that were given before, and wait for what it returns.

        A caller that is cancelled takes back a function that has not started.

        Raises:
            RuntimeError: the thread was stopped.
            asyncio.CancelledError: the thread was stopped before it came to the function.
        """
        future: Future[R] = Future()
        self._put((lambda: _resolve(future, function), future))  # type: ignore[arg-type]
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Drop what waits; what runs is not waited for. Calling it again does nothing."""
        self._stopped = True
        items = self._thread.items
        # The thread takes items meanwhile, so that asking whether there are any would say nothing.
        with contextlib.suppress(queue.Empty):
            while True:
                item = items.get_nowait()
                if item is not None and item[1] is not None:
                    item[1].cancel()
        items.put(None)

    def _put(self, item: _Item) -> None:
        if self._stopped:
            raise RuntimeError("the device's thread was stopped")
        self._thread.items.put(item)


class _Thread(threading.Thread):
    """It holds only its queue, so that it does not keep its owner alive."""

    def __init__(self, name: str) -> None:
        # The interpreter must not wait for a thread that nobody has told to end; see `_end_all`.
        super().__init__(name=name, daemon=True)
        self.items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        _threads.add(self)

    def run(self) -> None:
        while (item := self.items.get()) is not None:
            try:
                item[0]()
            except Exception:
                logger.exception("a function on a device's thread failed")
            del item  # While it waits it must not hold the last batch's arrays.


_threads: weakref.WeakSet[_Thread] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for thread in list(_threads):
        thread.items.put(None)
        if thread.is_alive():
            thread.join()


def _resolve(future: Future[R], function: Callable[[], R]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    # Whatever it is, it belongs to the caller.
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
