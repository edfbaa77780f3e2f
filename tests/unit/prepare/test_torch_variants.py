"""What a bundle for a GPU holds, opened and run on the processor."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Manifest, choose_variant, parse_manifest
from deepseek_api.vocabulary import InstructionSet, Precision
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.bundles import open_bundle
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.samples import sentences

pytestmark = pytest.mark.timeout(300)

CUDA = (InstructionSet.CUDA,)
CONFIG = {
    "model_type": "bert", "vocab_size": 300, "hidden_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 256, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with random weights, prepared for a GPU with all precisions."""
    from deepseek_engine.prepare import judges, recipe
    from deepseek_engine.prepare.architectures.tokenizers import character_tokenizer

    source = tmp_path_factory.mktemp("source")
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "tokenizer.json").write_bytes(character_tokenizer(300, 64))
    target = tmp_path_factory.mktemp("bundles") / "tiny"
    target.mkdir()
    request = PrepareRequest(
        name="tiny", uri=source.as_uri(), device="cuda", random_weights=True, threads=1
    )
    (source / "model.bin").touch()
    with pytest.MonkeyPatch.context() as patch:
        # Eight sentences decide nothing worse than all of them do, and take an eighth of the time.
        patch.setattr(judges, "sentences", lambda: sentences()[:8])
        recipe.build_bundle(request, target, Reporter(io.BytesIO()))
    return target


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return parse_manifest((folder / "manifest.json").read_bytes())


def test_a_gpu_finds_every_precision_and_a_processor_only_its_own(manifest: Manifest) -> None:
    for precision in ("fp32", "bf16", "fp16", "int8", "fp8", "mixed", "int4"):
        found = choose_variant(manifest, Precision(precision), CUDA)
        assert (found.backend, found.precision) == ("torch", precision)
    fp32 = choose_variant(manifest, Precision.FP32, (InstructionSet.AVX2,))
    assert fp32.backend == "onnxruntime"
    with pytest.raises(PrecisionError, match="only for processors with cuda"):
        choose_variant(manifest, Precision.BF16, (InstructionSet.AVX2,))


def test_auto_is_a_type_whose_answers_keep_their_bound(manifest: Manifest) -> None:
    found = choose_variant(manifest, Precision.AUTO, CUDA)
    assert found.id == "bf16-torch"
    assert found.agreement is not None
    assert found.agreement.mean >= found.agreement.bound


def test_lower_precisions_are_smaller(manifest: Manifest) -> None:
    sizes = {variant.id: variant.tensor_bytes for variant in manifest.variants}
    assert sizes["bf16-torch"] < 0.51 * sizes["fp32-torch"]
    assert sizes["int8-torch"] < 0.35 * sizes["fp32-torch"]
    assert sizes["int4-torch"] < sizes["int8-torch"]


@pytest.mark.parametrize(
    ("precision", "limit"),
    [("bf16", 0.02), ("fp16", 0.005), ("int8", 0.05), ("fp8", 0.1), ("mixed", 0.05), ("int4", 0.4)],
)
def test_a_variant_opens_and_answers_close_to_fp32(
    folder: Path, manifest: Manifest, precision: str, limit: float
) -> None:
    bundle = open_bundle(folder)
    ids = np.random.default_rng(0).integers(5, 300, (3, 12))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def answer(name: str) -> np.ndarray:
        variant = choose_variant(manifest, Precision(name), CUDA)
        bundle.verify(variant)
        backend = open_backend(bundle, variant, BackendOptions())
        return backend.run(given)["last_hidden_state"]

    wanted = answer("fp32")
    error = np.linalg.norm(answer(precision) - wanted) / np.linalg.norm(wanted)
    assert 1e-6 < error < limit


def test_a_precision_that_no_gpu_has_is_refused(tmp_path: Path) -> None:
    from deepseek_engine.prepare.torch_variants import wanted_types

    with pytest.raises(PrecisionError, match="'int9' cannot be prepared for the device 'cuda'"):
        list(wanted_types(["int9"]))
