"""Health tells every watcher of every change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from deepseek_api.errors import InferenceError
from deepseek_worker.health import Health
from grpc_health.v1 import health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def watch(health: Health, service: str) -> Any:
    return health.Watch(health_pb2.HealthCheckRequest(service=service), context=None)  # type: ignore[arg-type]


async def status(watcher: Any) -> int:
    async with asyncio.timeout(5):
        return int((await anext(watcher)).status)


async def test_watchers_of_one_name_do_not_depend_on_each_other() -> None:
    health = Health()
    first, second = watch(health, "a"), watch(health, "a")
    assert [await status(first), await status(second)] == [UNKNOWN, UNKNOWN]
    await first.aclose()
    health.update({"a": True})
    assert await status(second) == SERVING


async def test_a_watcher_hears_of_changes_of_its_own_name_only() -> None:
    health = Health()
    health.update({"a": True, "b": True})
    watcher = watch(health, "a")
    assert await status(watcher) == SERVING
    health.update({"b": False})
    following = asyncio.create_task(status(watcher))
    await asyncio.sleep(0)
    assert not following.done()
    health.update({"a": False})
    assert await following == NOT_SERVING


async def test_a_slow_watcher_sees_the_last_state() -> None:
    health = Health()
    health.update({"a": False})
    watcher = watch(health, "a")
    assert await status(watcher) == NOT_SERVING
    health.update({"a": True})
    health.update({"a": False})
    health.update({"a": True})
    assert await status(watcher) == SERVING


async def test_shutting_down_is_final() -> None:
    health = Health()
    health.update({"": True, "a": True})
    health.shut_down()
    health.update({"a": True})
    for name in ("", "a"):
        request = health_pb2.HealthCheckRequest(service=name)
        assert (await health.Check(request, None)).status == NOT_SERVING  # type: ignore[arg-type]


async def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    health = Health()
    health.update({"": True, "a": True})
    with pytest.raises(InferenceError, match=r"no service 'b'"):
        await health.Check(health_pb2.HealthCheckRequest(service="b"), None)  # type: ignore[arg-type]
