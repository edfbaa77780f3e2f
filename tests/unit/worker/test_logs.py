"""Log lines are whole, and nobody can forge one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from deepseek_worker.logs import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_hold_level_logger_message_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(log_format="json", level="info")
    logging.getLogger("a.b").info("it\nhappened", extra={"model": "m"})
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert record.pop("time")
    assert record == {"level": "INFO", "logger": "a.b", "message": "it\nhappened", "model": "m"}


def test_text_lines_escape_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format="text", level="info")
    logging.getLogger("a").warning("one\nERROR two", extra={"name_given": "x\ny"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING one\\nERROR two name_given='x\\ny'")


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(log_format="auto", level="warning")
    logging.getLogger("a").info("quiet")
    assert capsys.readouterr().err == ""
