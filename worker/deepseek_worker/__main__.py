"""Runs a worker from a configuration file: ``python -m deepseek_worker --config FILE``.

Why it exists: containers and tests start workers this way. People use ``deepseek serve``.
``--models FOLDER`` serves every bundle of a folder when there is no configuration file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from deepseek_api.errors import ConfigurationError
from deepseek_engine.client import report_end

from deepseek_worker.config import WorkerConfig, load_config
from deepseek_worker.container import config_of_folder
from deepseek_worker.worker import run_worker

_EXIT_CONFIGURATION = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_worker")
    parser.add_argument("--config", type=Path, help="JSON file with the settings")
    parser.add_argument(
        "--models", type=Path, help="folder of bundles to serve when the settings file is absent"
    )
    parser.add_argument("--host", help="address to listen on, instead of the file's")
    parser.add_argument("--grpc-port", type=int, help="port of gRPC, instead of the file's")
    parser.add_argument("--http-port", type=int, help="port of HTTP, instead of the file's")
    parser.add_argument("--log-format", choices=("auto", "json", "text"))
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    options = vars(parser.parse_args(arguments))
    try:
        config = _config(options.pop("config"), options.pop("models"))
        given = {name: value for name, value in options.items() if value is not None}
        return run_worker(msgspec.structs.replace(config, **given))
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        report_end(reason=error.reason, message=str(error))
        return _EXIT_CONFIGURATION


def _config(file: Path | None, models: Path | None) -> WorkerConfig:
    if file is not None and (models is None or file.exists()):
        return load_config(file)
    if models is not None:
        return config_of_folder(models)
    raise ConfigurationError("Nothing says what to serve.", hint="Give --config or --models.")


if __name__ == "__main__":
    sys.exit(main())
