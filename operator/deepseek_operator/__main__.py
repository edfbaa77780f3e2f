"""The program: ``python -m deepseek_operator``.

Why it exists: it reads the settings, makes sure that the cluster knows ModelPipelines, and runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kopf
from deepseek_api.errors import ConfigurationError
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR

from deepseek_operator import labels
from deepseek_operator.cluster import ClusterError
from deepseek_operator.config import CONFIG_VARIABLE, OperatorConfig, load_config
from deepseek_operator.handlers import REGISTRY, configure
from deepseek_operator.kube import KubeCluster, connect
from deepseek_operator.logs import configure_logging
from deepseek_operator.runtime import Runtime
from deepseek_operator.startup import kind_is_served

_log = logging.getLogger("deepseek_operator")
_NO_CRD = (
    "The cluster does not know the kind ModelPipeline. Install the CustomResourceDefinition "
    "modelpipelines.deepseek.ai (the chart does so unless crds.enabled is false) and start the "
    "operator again."
)


def main() -> int:
    """Run until a signal comes.

    Returns:
        0 after a signal, 1 when the operator cannot work here.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    try:
        config = load_config(Path(path) if path else None)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    configure_logging(config.log_level)
    try:
        return asyncio.run(_run(config))
    except ClusterError as error:
        _log.error("The operator cannot start: %s", error)
        return 1
    except Exception:
        _log.exception("the operator ends because of an error")
        return 1


async def _run(config: OperatorConfig) -> int:
    connection = await connect()
    async with KubeCluster(connection, namespaces=config.namespaces) as cluster:
        try:
            with _ended_by_a_signal():
                served = await kind_is_served(
                    cluster.serves_pipelines, clock=time.monotonic, sleep=asyncio.sleep
                )
        except asyncio.CancelledError:
            return 0
        if not served:
            _log.error(_NO_CRD)
            return 1
        runtime = Runtime(cluster, config)
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            runtime.metrics.registry.register(collector)
        settings = kopf.OperatorSettings()
        configure(settings)
        # Kopf's own guess asks for the user's name, and a container's user has none. It wants a
        # type of text for which it exports no name.
        identity: Any = os.environ.get("HOSTNAME") or labels.OPERATOR_NAME
        await kopf.operator(
            registry=REGISTRY,
            settings=settings,
            identity=identity,
            standalone=True,
            clusterwide=config.cluster_wide,
            namespaces=config.namespaces,
            memo=kopf.Memo(runtime=runtime, connection=connection),
        )
    return 0


@contextlib.contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """Let SIGTERM cancel the running task.

    The first process of a container ignores a signal without a handler, and kopf's comes later.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
