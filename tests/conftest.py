"""What holds for all tests: drawn cases, kernels without a GPU, Ctrl-C, no network."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.triton_interpreter import interpret_kernels

# The gate must give the same verdict twice; at a desk every run looks at new cases. A busy machine
# is no defect, so how long a case takes does not count.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", settings.get_profile("desk"), derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "desk")

HERE = Path(__file__).parent
NO_NETWORK = "DEEPSEEK_TESTS_NO_NETWORK"
# Importing the guard switches it on here; the path switches it on in child processes.
os.environ[NO_NETWORK] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE / "support" / "no_network"), os.environ.get("PYTHONPATH")])
)
importlib.import_module("tests.support.no_network.sitecustomize")

# A shell starts background jobs with Ctrl-C ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

interpret_kernels()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    os.environ[NO_NETWORK] = "" if item.path.is_relative_to(HERE / "e2e") else "1"
