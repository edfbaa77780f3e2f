"""The wiring of kopf: events to keys, startup, cleanup and login.

Why it exists: kopf watches and nothing else. Only ``on.event`` handlers are used, because those
write neither finalizers nor annotations to anybody's objects. No decision is taken here.
"""

from __future__ import annotations

from typing import Any, Final

import kopf

from deepseek_operator import labels
from deepseek_operator.kube import Connection
from deepseek_operator.observed import CHILD_KINDS
from deepseek_operator.resources import RESOURCES, WATCHED_KINDS
from deepseek_operator.runtime import Runtime

__all__ = ["REGISTRY", "configure"]

REGISTRY: Final = kopf.OperatorRegistry()
"""The handlers below."""


class _Patience:
    """Waits between attempts, without an end: an outage of the API server is survived."""

    def __iter__(self) -> Any:
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 3.0


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up: one replica, no peering, no posting, no scanning, quick reconnects."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    # The kinds are known, and looking for others would need more permissions.
    settings.scanning.disabled = True
    settings.watching.server_timeout = 600
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Patience()
    settings.persistence.finalizer = f"{labels.OPERATOR_NAME}.deepseek.ai/finalizer"
    settings.process.ultimate_exiting_timeout = 25
    selectors = settings.watching.label_selectors
    for kind in CHILD_KINDS:
        # Autoscalers of others matter, too.
        if kind != "HorizontalPodAutoscaler":
            resource = RESOURCES[kind]
            selectors[resource.group, resource.version, resource.plural] = (
                f"{labels.MANAGED_BY}={labels.OPERATOR_NAME}"
            )
    selectors["", "v1", "pods"] = labels.PIPELINE


@kopf.on.login(registry=REGISTRY)
async def login(memo: Any, **_: Any) -> kopf.AiohttpSession:
    connection: Connection = memo.connection
    runtime: Runtime = memo.runtime
    return kopf.AiohttpSession(
        server=connection.server, aiohttp_session=connection.session(runtime.watched)
    )


@kopf.on.startup(registry=REGISTRY)
async def startup(memo: Any, **_: Any) -> None:
    await memo.runtime.start()


@kopf.on.cleanup(registry=REGISTRY)
async def cleanup(memo: Any, **_: Any) -> None:
    await memo.runtime.stop()


async def changed(event: Any, memo: Any, **_: Any) -> None:
    memo.runtime.changed(event["object"])


for _kind in WATCHED_KINDS:
    _resource = RESOURCES[_kind]
    kopf.on.event(
        _resource.group,
        _resource.version,
        _resource.plural,
        registry=REGISTRY,
        id=f"changed-{_resource.plural}",
    )(changed)
