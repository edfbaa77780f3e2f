"""The two real models of the quickstart, prepared once and used by every test that needs them.

A test module writes ``pytest_plugins = ("tests.support.real_bundles",)`` and asks for the fixtures
`minilm_bundle` and `efficientnet_bundle`; the module's tests need the marker ``models`` and a
timeout of 300 s. Bundles go into the user's normal cache, where ``make demo`` looks for the same
ones; the lock of prepare lets one of several test processes make them while the others wait.

Tests import nothing from here (pytest does, as a plugin); what they call is in `real_models`.
"""

from __future__ import annotations

import pytest
from deepseek._resolve import resolve
from deepseek_api.catalog import builtin_catalog
from deepseek_engine.bundles import OpenBundle, open_bundle
from deepseek_engine.prepare.api import prepare


@pytest.fixture(scope="session")
def minilm_bundle() -> OpenBundle:
    """The sentence encoder."""
    return real_bundle("minilm")


@pytest.fixture(scope="session")
def efficientnet_bundle() -> OpenBundle:
    """The image classifier."""
    return real_bundle("efficientnet-lite0")


def real_bundle(name: str) -> OpenBundle:
    """A model of the quickstart, from the cache or prepared now (one to two minutes)."""
    request = resolve(name, catalog=builtin_catalog()).request
    assert request is not None
    return open_bundle(prepare(request).path)
