"""Runs a worker from a configuration file: ``python -m deepseek_worker --config FILE``.

Why it exists: containers and tests start workers this way. People use ``deepseek serve``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from deepseek_api.errors import ConfigurationError

from deepseek_worker.config import load_config
from deepseek_worker.worker import run_worker

_EXIT_CONFIGURATION = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_worker")
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the settings")
    parser.add_argument("--host", help="address to listen on, instead of the file's")
    parser.add_argument("--grpc-port", type=int, help="port of gRPC, instead of the file's")
    parser.add_argument("--http-port", type=int, help="port of HTTP, instead of the file's")
    parser.add_argument("--log-format", choices=("auto", "json", "text"))
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    options = vars(parser.parse_args(arguments))
    try:
        config = load_config(options.pop("config"))
        given = {name: value for name, value in options.items() if value is not None}
        return run_worker(msgspec.structs.replace(config, **given))
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return _EXIT_CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
