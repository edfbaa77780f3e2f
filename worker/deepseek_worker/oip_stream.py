"""ModelStreamInfer: several requests over one stream, answers in any number of parts.

Why it exists: a stream outlives its requests. One that fails is told in band, with its id, and the
others go on; a client that does not read holds up its own requests and nothing else, because what
is computed for it waits in the engine, merged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from deepseek_api.errors import DeepseekError
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.answering import Answering, Remaining

__all__ = ["StreamInfer"]

logger = logging.getLogger(__name__)

_CONCURRENT = 64
"""Requests of a stream that run at once; further ones are read when one of them has ended."""
_UNSENT = 8
"""Answers of a stream that wait to be sent."""

_Item = pb.ModelStreamInferResponse


class StreamInfer:
    """One call of ModelStreamInfer."""

    def __init__(self, answering: Answering, remaining: Remaining) -> None:
        """Prepare.

        Args:
            answering: answers single requests.
            remaining: until the deadline of the whole stream.
        """
        self._answering = answering
        self._remaining = remaining
        self._ready: asyncio.Queue[_Item | None] = asyncio.Queue(_UNSENT)
        self._running: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_CONCURRENT)

    async def run(
        self, requests: AsyncIterator[pb.ModelInferRequest]
    ) -> AsyncGenerator[_Item, None]:
        """Answers, until the client has sent its last request and every one is answered.

        Raises:
            DeepseekError: something on the stream was no request.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (item := await self._ready.get()) is not None:
                yield item
            await reading
        finally:
            tasks = [reading, *self._running]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        try:
            async for message in requests:
                await self._places.acquire()
                task = asyncio.create_task(self._answer(message))
                self._running.add(task)
                task.add_done_callback(self._ended)
            if self._running:
                await asyncio.wait(set(self._running))
        # `run` waits for the end, and then sees why it came. When this is cancelled nobody waits.
        except Exception:
            await self._ready.put(None)
            raise
        await self._ready.put(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._places.release()

    async def _answer(self, message: pb.ModelInferRequest) -> None:
        parts = self._answering.parts(message, self._remaining)
        try:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    await self._ready.put(_Item(infer_response=part))
        except DeepseekError as error:
            await self._ready.put(_failure(message, str(error), error))
        # The stream must go on, and only the log may tell what happened.
        except Exception as error:
            incident = uuid.uuid4().hex[:12]
            logger.error("unexpected error", exc_info=error, extra={"incident": incident})
            sentence = "An unexpected error happened in the worker. Its log has the details under"
            await self._ready.put(_failure(message, f"{sentence} {incident}."))


def _failure(
    message: pb.ModelInferRequest, sentence: str, error: DeepseekError | None = None
) -> _Item:
    item = _Item(error_message=sentence)
    item.infer_response.model_name = message.model_name
    item.infer_response.id = message.id
    parameters = item.infer_response.parameters
    parameters["error_code"].string_param = error.code.value if error else "INTERNAL"
    parameters["triton_final_response"].bool_param = True
    return item
