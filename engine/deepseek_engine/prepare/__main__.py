"""The preparing process: a request on stdin, events on stdout, a bundle in the folder named.

``python -m deepseek_engine.prepare FOLDER`` is started by :mod:`deepseek_engine.prepare.api`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

import msgspec
from deepseek_api.errors import DeepseekError, ErrorCode

from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.messages import PrepareEvent, PrepareRequest

MISSING_PACKAGE_HINT = "Install what preparing needs: pip install 'deepseek[prepare]'."


def main() -> int:
    """Prepare one bundle; return the exit status."""
    report = Reporter.take_over_stdout()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # Nothing here may ask a question or draw bars of its own on the caller's terminal.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=PrepareRequest)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    report.progress("starting")
    try:
        # Imports torch: 3 to 15 seconds, and not there at all in a serving environment.
        from deepseek_engine.prepare.recipe import build_bundle

        digest = build_bundle(request, Path(sys.argv[1]), report)
    except DeepseekError as error:
        report.send(
            PrepareEvent(
                kind="error",
                message=error.message,
                code=error.code,
                reason=error.reason,
                hint=error.hint or "",
            )
        )
        return 1
    except ModuleNotFoundError as error:
        report.send(
            PrepareEvent(
                kind="error",
                message=f"Preparing needs the package '{error.name}', which is not installed.",
                code=ErrorCode.FAILED_PRECONDITION,
                reason="PackageNotInstalled",
                hint=MISSING_PACKAGE_HINT,
            )
        )
        return 1
    report.send(PrepareEvent(kind="done", digest=digest))
    return 0


def _end_with_caller() -> None:
    """End this process when its caller is gone, however that ended: nobody wants the bundle."""
    # Not through sys.stdin: a daemon thread that holds its lock makes the interpreter's exit fail.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
