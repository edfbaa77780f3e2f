"""A pipeline on one machine: shares of device time, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from deepseek._generation import ADAPTER_FILES
from deepseek._local import (
    MIN_WEIGHT,
    LocalModel,
    ServeOptions,
    _config,
    check_ports,
    device_shares,
    local_models,
)
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import ConfigurationError, DeepseekError
from deepseek_api.loading import load_pipelines
from deepseek_api.v1alpha1 import ModelPipeline
from deepseek_engine.generation.settings import GenerationSettings, Speculation

from tests.support import bundles
from tests.support.command import pipeline as pipeline_file

CATALOG = builtin_catalog()


def pipeline(spec: str) -> ModelPipeline:
    head = "apiVersion: deepseek.ai/v1alpha1\nkind: ModelPipeline\nmetadata: {name: p}\nspec:\n"
    text = head + "\n".join(f"  {line}" for line in spec.strip().splitlines())
    return load_pipelines(text, catalog=CATALOG)[0].pipeline


def check(spec: str, **options: Any) -> tuple[list[LocalModel], list[DeepseekError]]:
    return local_models(pipeline(spec), catalog=CATALOG, options=ServeOptions(**options))


TWO = "models: [{name: minilm, replicas: 2}, {name: efficientnet-lite0}]\n"


@pytest.mark.parametrize(
    ("spec", "shares"),
    [
        (TWO + "scheduler: {priorityRules: [{modelType: NLP, weight: 0.7}]}", (0.7, 0.3)),
        (TWO, (2 / 3, 1 / 3)),
        (TWO + "scheduler: {policy: static, priorityRules: [{modelType: NLP, weight: 0.9}]}",
         (2 / 3, 1 / 3)),
        (TWO + "scheduler: {budget: {replicas: 2}, priorityRules: [{modelType: CV, weight: 0.4}]}",
         (0.6, 0.4)),
        (TWO + "scheduler: {priorityRules: [{modelType: NLP, weight: 1.0}]}", (1.0, MIN_WEIGHT)),
    ],
    ids=["rule and rest", "no rules", "static", "budget does not matter", "nothing left"],
)  # fmt: skip
def test_weights_become_shares_of_device_time(spec: str, shares: tuple[float, float]) -> None:
    found = device_shares(pipeline(spec), CATALOG)
    assert tuple(found.values()) == pytest.approx(shares)


def test_models_of_one_type_share_its_weight() -> None:
    spec = (
        "models: [{name: minilm}, {name: bert-base, replicas: 3}, {name: resnet50}]\n"
        "scheduler: {priorityRules: [{modelType: NLP, weight: 0.8}]}"
    )
    found = device_shares(pipeline(spec), CATALOG)
    assert found == pytest.approx({"minilm": 0.2, "bert-base": 0.6, "resnet50": 0.2})


def test_models_that_want_no_replica_are_left_out() -> None:
    models, errors = check("models: [{name: minilm, replicas: 0}, {name: efficientnet-lite0}]")
    assert [item.model.name for item in models] == ["efficientnet-lite0"]
    assert errors == []


REFUSED = [
    ("cuda", "device: cuda, gpus: 1", "The model 'minilm' cannot run here.", "device: cpu"),
    ("sharding", "parallelism: {tensor: 2}", "divided over several devices", "parallelism"),
    ("quantization", "precision: int8, quantization: {scheme: awq}", "quantization", "Leave"),
    ("precision", "precision: fp16", "precision 'fp16'", "'int8'"),
    ("task", "task: translation", "task 'translation'", "text-embedding"),
    (
        "adapter in a cluster",
        "task: generate, adapters: [{name: a, source: {uri: 'pvc://c/p'}}]",
        "The adapter 'a' of the model 'minilm' comes from 'pvc://c/p'",
        "file:///PATH",
    ),
    (
        "adapter that is not there",
        "task: generate, adapters: [{name: a, source: {uri: 'file:///nowhere/a'}}]",
        "no adapter_config.json",
        "peft",
    ),
    ("volume", "source: {uri: 'pvc://c/p'}", "one machine", "file://"),
]


@pytest.mark.parametrize(
    ("fields", "words", "hint"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_model_that_cannot_run_here_is_refused(fields: str, words: str, hint: str) -> None:
    models, errors = check(f"models: [{{name: minilm, {fields}}}, {{name: efficientnet-lite0}}]")
    assert [item.model.name for item in models] == ["efficientnet-lite0"]
    assert len(errors) == 1
    assert words in errors[0].message
    assert hint in (errors[0].hint or "")


def test_every_model_that_cannot_run_is_reported_at_once() -> None:
    _, errors = check("models: [{name: minilm, precision: fp8}, {name: resnet50, device: npu}]")
    assert len(errors) == 2


def test_a_pipeline_of_zero_replicas_is_refused() -> None:
    _, errors = check("models: [{name: minilm, replicas: 0}]")
    assert "nothing to serve" in errors[0].message


def test_batching_settings_reach_the_worker(tmp_path: Path) -> None:
    text = pipeline_file({"echo": bundles.write_echo(tmp_path / "echo")})
    text += "    batching: {maxBatchSize: 4, latencyTargetMs: 20, maxQueueSize: 9}\n"
    loaded = load_pipelines(text)[0].pipeline
    (item,), _ = local_models(loaded, catalog=CATALOG, options=ServeOptions())
    config = _config(item, tmp_path / "echo")
    assert (config.max_batch_size, config.max_queue_size, config.latency_target_ms) == (4, 9, 20)
    assert config.weight == 1.0


def test_what_a_pipeline_says_of_generation_reaches_the_worker(tmp_path: Path) -> None:
    adapter = tmp_path / "support"
    adapter.mkdir()
    for name in ADAPTER_FILES:
        (adapter / name).touch()
    (item,), errors = check(
        "models: [{name: llm, task: generate, source: {uri: 'random://llama-tiny'}, "
        "parallelism: {tensor: 2}, batching: {maxQueueSize: 7}, "
        "generation: {maxSequences: 4, maxTokens: 64, kvCacheBlocks: 32, speculative: {}}, "
        f"adapters: [{{name: support, source: {{uri: '{adapter.as_uri()}'}}}}]}}]"
    )
    assert errors == []
    config = _config(item, tmp_path)
    assert config.generation == GenerationSettings(
        max_sequences=4, max_tokens=64, kv_cache_blocks=32, speculative=Speculation(), max_queue=7
    )
    assert [(a.name, Path(a.path)) for a in config.adapters] == [("support", adapter)]
    assert (config.parallelism.tensor, config.parallelism.pipeline) == (2, 1)


def test_a_port_in_use_is_found_before_anything_is_prepared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port} .* in use") as caught:
            check_ports(ServeOptions(grpc_port=port, http_port=0))
    assert "--grpc-port" in (caught.value.hint or "")


def test_one_port_cannot_carry_both_protocols() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigurationError, match="cannot share port"):
        check_ports(ServeOptions(grpc_port=port, http_port=port))
