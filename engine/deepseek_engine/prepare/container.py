"""Prepares one model in a container, from a request in a file.

``python -m deepseek_engine.prepare.container REQUEST FOLDER``

Why it exists: in a cluster a model with a raw source is prepared by an init container, which has a
file with the request, a volume for the bundle and no user. A container that is started again on the
same volume finds the finished bundle, or begins anew. People use ``deepseek prepare``.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
from deepseek_api.errors import ConfigurationError, DeepseekError

from deepseek_engine.logs import json_formatter
from deepseek_engine.prepare.api import PrepareEvent, PrepareRequest, prepare_at
from deepseek_engine.termination import report_end

__all__ = ["main"]

_OUT_OF_MEMORY = "OutOfMemory"
_log = logging.getLogger("deepseek_engine.prepare")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the model; gives the exit status.

    Returns:
        0 when the bundle is there; 1 when it cannot be made, with the cause in the termination log.
    """
    parser = argparse.ArgumentParser(prog="python -m deepseek_engine.prepare.container")
    parser.add_argument("request", type=Path, help="JSON file that says what to prepare")
    parser.add_argument("folder", type=Path, help="folder of the bundle, made when absent")
    options = parser.parse_args(arguments)
    # The first process of a container gets no default handler: without this it cannot be stopped.
    signal.signal(signal.SIGTERM, _end)
    _log_to_stderr()
    try:
        bundle = prepare_at(read_request(options.request), options.folder, on_event=_Progress())
    except DeepseekError as error:
        _log.error(
            "the model cannot be prepared", extra={"reason": error.reason, "detail": f"{error}"}
        )
        reason = _OUT_OF_MEMORY if error.reason == "PrepareKilled" else error.reason
        report_end(reason=reason, message=str(error))
        return 1
    _log.info("the bundle is ready", extra={"digest": bundle.digest, "cached": bundle.cached})
    return 0


def read_request(file: Path) -> PrepareRequest:
    """Read what to prepare.

    Raises:
        ConfigurationError: the file cannot be read or is no request.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=PrepareRequest)
    except OSError as error:
        raise ConfigurationError(f"The request {file} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"The request {file} is wrong: {error}.") from error


class _Progress:
    """Logs each stage once, as a log is no progress bar."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, event: PrepareEvent) -> None:
        if event.kind == "warning":
            _log.warning("%s", event.message)
        elif event.kind == "progress" and event.stage != self._stage:
            self._stage = event.stage
            _log.info("preparing", extra={"stage": event.stage})


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(json_formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
