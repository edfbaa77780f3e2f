"""Back ends: devices, registration, and what ONNX Runtime is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_api.errors import BundleError, DeviceError
from deepseek_engine import registry
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.backends.devices import parse_device
from deepseek_engine.backends.onnxruntime import session_options
from deepseek_engine.bundles import open_bundle

from tests.support import bundles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ("cpu", None)),
        ("cuda", ("cuda", None)),
        ("cuda:0", ("cuda", 0)),
        ("npu:12", ("npu", 12)),
    ],
)
def test_device_strings(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_device(text) == expected


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CUDA", "cuda:0 "]
)
def test_other_strings_name_no_device(text: str) -> None:
    with pytest.raises(DeviceError, match="cuda:N") as caught:
        parse_device(text)
    assert caught.value.reason == "UnknownDevice"


def test_sessions_leave_the_processor_to_the_next_one() -> None:
    options = session_options(threads=3)
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.get_session_config_entry("session.dynamic_block_base") == "4"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_a_graph_with_bytes_and_bf16_is_refused(tmp_path: Path) -> None:
    specs: list[bundles.Spec] = [("A", "BF16", (-1, 2)), ("B", "BYTES", (-1, 2))]
    folder = bundles.write_identity(tmp_path / "both", specs, name="both")
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="both BF16 and BYTES"):
        open_backend(bundle, bundle.manifest.variants[0], BackendOptions())


def test_another_package_can_add_a_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "mine"

        def load(self) -> str:
            return "loaded"

    monkeypatch.setattr(
        registry, "entry_points", lambda **k: [Entry()] if k.get("name", "mine") == "mine" else []
    )
    table = {"own": "os:sep"}
    assert registry.load("mine", builtin=table, group="g") == "loaded"
    assert registry.load("own", builtin=table, group="g") == "/"
    assert registry.load("none", builtin=table, group="g") is None
    assert registry.available(builtin=table, group="g") == ["mine", "own"]
