"""The chart for tests that render it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.chart.rendering import Chart


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    """The chart, with Helm's own files in a folder of the test."""
    return Chart(tmp_path)
