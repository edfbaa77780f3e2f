"""What single fields of a pipeline do to its objects; the files in golden/ show the whole."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from deepseek_engine.generation.settings import GenerationSettings, Speculation
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_operator import labels
from deepseek_operator.config import DrainSettings, OperatorConfig
from deepseek_operator.observed import CHILD_KINDS, K8sObject
from deepseek_worker.config import WorkerConfig

from tests.support.rendering import CONFIG, Installation, find, one_model, stored, worker_of

NAME = "shop-bert-base"


def item(kind: str, config: OperatorConfig = CONFIG, **fields: Any) -> K8sObject:
    return find(Installation(config=config).rendered(one_model(**fields)), kind, NAME)


def pod(config: OperatorConfig = CONFIG, **fields: Any) -> dict[str, Any]:
    spec: dict[str, Any] = item("Deployment", config, **fields)["spec"]["template"]["spec"]
    return spec


def names(config: OperatorConfig = CONFIG, **fields: Any) -> set[tuple[str, str]]:
    rendered = Installation(config=config).rendered(one_model(**fields))
    return {(one["kind"], one["metadata"]["name"]) for one in rendered.objects}


def settings(**changes: Any) -> OperatorConfig:
    return CONFIG.model_copy(update=changes)


def worker_json(config: OperatorConfig = CONFIG, **fields: Any) -> WorkerConfig:
    data = item("ConfigMap", config, **fields)["data"]["worker.json"]
    return msgspec.json.decode(data, type=WorkerConfig)


def test_the_worker_can_read_its_settings() -> None:
    found = worker_json(
        precision="int8",
        batching={"maxBatchSize": 4, "latencyTargetMs": 20, "maxQueueSize": 8},
        source={"uri": "oci://x", "digest": "sha256:" + "1" * 64},
    )
    assert (found.host, found.grpc_port, found.http_port) == ("0.0.0.0", 8001, 8080)
    assert found.drain_s == CONFIG.drain.drain_s
    model = found.models[0]
    assert (model.name, model.bundle) == ("bert-base", "/models/bert-base")
    assert (model.precision, model.digest) == ("int8", "sha256:" + "1" * 64)
    assert (model.max_batch_size, model.latency_target_ms, model.max_queue_size) == (4, 20, 8)


def test_the_init_container_can_read_its_request() -> None:
    data = item("ConfigMap", source=None)["data"]["prepare.json"]
    request = msgspec.json.decode(data, type=PrepareRequest)
    assert (request.name, request.uri) == ("bert-base", "hf://google-bert/bert-base-uncased")
    assert request.precisions == ("auto",)
    assert request.entry["architecture"] == "transformers/bert-base-uncased"
    assert "prepare.json" not in item("ConfigMap")["data"]


def test_a_pretended_device_is_served_by_the_processor() -> None:
    cpu = CONFIG.images["cpu"]
    config = settings(images={"cpu": cpu, "cuda": cpu})
    assert worker_json(config, device="cuda").models[0].device == "cpu"
    assert worker_json(device="cuda").models[0].device == "cuda"


SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "an image": (
        {"uri": "oci://example.com/x@sha256:1"},
        {"image": {"reference": "example.com/x@sha256:1", "pullPolicy": "IfNotPresent"}},
        {"mountPath": "/models/bert-base", "readOnly": True},
    ),
    "a folder of a claim": (
        {"uri": "pvc://claim/a/b/"},
        {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
        {"mountPath": "/models/bert-base", "readOnly": True, "subPath": "a/b"},
    ),
    "a whole claim": (
        {"uri": "pvc://claim"},
        {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
        {"mountPath": "/models/bert-base", "readOnly": True},
    ),
    "a raw source": (
        {"uri": "pip://x"},
        {"emptyDir": {}},
        {"mountPath": "/models", "readOnly": True},
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_the_bundle_comes_from_its_source(case: str) -> None:
    source, volume, mount = SOURCES[case]
    item_of = item("Deployment", source=source)
    volumes = item_of["spec"]["template"]["spec"]["volumes"]
    assert {"name": "bundle", **volume} in volumes
    assert {"name": "bundle", **mount} in worker_of(item_of)["volumeMounts"]


def test_a_raw_source_is_prepared_with_torch_and_its_credentials() -> None:
    spec = pod(source={"uri": "hf://a/b", "secretName": "hub"})
    (prepare,) = spec["initContainers"]
    assert prepare["image"] == CONFIG.torch_image
    assert prepare["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert {"name": "bundle", "mountPath": "/models"} in prepare["volumeMounts"]
    assert "imagePullSecrets" not in spec
    assert "initContainers" not in pod()


def test_the_secret_of_an_image_is_a_pull_secret_and_named_once() -> None:
    config = settings(image_pull_secrets=("a", "b"))
    source = {"uri": "oci://x", "secretName": "b"}
    assert pod(config, source=source)["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


RESOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {"requests": {"cpu": "250m", "memory": "1Gi"}}),
    "requests of the user": (
        {"resources": {"requests": {"cpu": 2}}},
        {"requests": {"cpu": 2, "memory": "1Gi"}},
    ),
    "a limit below the default": (
        {"resources": {"limits": {"cpu": "100m"}}},
        {"requests": {"memory": "1Gi"}, "limits": {"cpu": "100m"}},
    ),
    "GPUs": (
        {"device": "cuda", "parallelism": {"tensor": 2}},
        {
            "requests": {"cpu": "250m", "memory": "1Gi", "nvidia.com/gpu": "2"},
            "limits": {"nvidia.com/gpu": "2"},
        },
    ),
}


@pytest.mark.parametrize("case", RESOURCES)
def test_resources_are_those_of_the_user_over_the_defaults(case: str) -> None:
    fields, expected = RESOURCES[case]
    assert worker_of(item("Deployment", **fields))["resources"] == expected


def test_a_model_that_generates_gets_its_limits_and_the_others_keep_their_defaults() -> None:
    found = worker_json(
        task="generate",
        generation={"maxSequences": 600, "kvCacheBlocks": 64, "speculative": {"guesses": 6}},
        batching={"maxQueueSize": 9},
    ).models[0]
    assert found.generation == GenerationSettings(
        max_sequences=600,
        kv_cache_blocks=64,
        speculative=Speculation(guesses=6),
        token_budget=600,
        max_queue=9,
    )
    assert worker_json().models[0].generation == GenerationSettings()


ADAPTERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a folder of a claim": (
        "pvc://claim/loras/a",
        {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
        {"subPath": "loras/a"},
    ),
    "a whole claim": (
        "pvc://claim",
        {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
        {},
    ),
    "an image": (
        "oci://example.com/lora@sha256:1",
        {"image": {"reference": "example.com/lora@sha256:1", "pullPolicy": "IfNotPresent"}},
        {},
    ),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_is_mounted_where_the_worker_looks_for_it(case: str) -> None:
    uri, volume, mount = ADAPTERS[case]
    fields: dict[str, Any] = {
        "task": "generate",
        "adapters": [{"name": "support", "source": {"uri": uri}}],
    }
    (adapter,) = worker_json(**fields).models[0].adapters
    assert (adapter.name, adapter.path) == ("support", "/adapters/support")
    assert {"name": "adapter-support", **volume} in pod(**fields)["volumes"]
    expected = {"name": "adapter-support", "mountPath": adapter.path, "readOnly": True, **mount}
    assert expected in worker_of(item("Deployment", **fields))["volumeMounts"]


DIVIDED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "over processes": ({"parallelism": {"tensor": 2}}, {"GLOO_SOCKET_IFNAME"}),
    "over GPUs": (
        {"device": "cuda", "parallelism": {"tensor": 2, "pipeline": 2}},
        {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"},
    ),
}


@pytest.mark.parametrize("case", DIVIDED)
def test_ranks_share_memory_and_meet_on_the_loopback_device(case: str) -> None:
    fields, variables = DIVIDED[case]
    worker = worker_of(item("Deployment", **fields))
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in worker["volumeMounts"]
    memory = {"medium": "Memory", "sizeLimit": "1Gi"}
    assert {"name": "shared-memory", "emptyDir": memory} in pod(**fields)["volumes"]
    assert {(one["name"], one["value"]) for one in worker["env"]} == {(n, "lo") for n in variables}
    parts = worker_json(**fields).models[0].parallelism
    assert (parts.tensor, parts.pipeline) == (2, fields["parallelism"].get("pipeline", 1))


def test_a_model_in_one_piece_has_nothing_of_that() -> None:
    assert "env" not in worker_of(item("Deployment"))
    assert {one["name"] for one in pod()["volumes"]} == {"config", "tmp", "bundle"}


def test_a_device_without_a_resource_name_is_not_requested() -> None:
    found = worker_of(item("Deployment", settings(device_resources={}), device="cuda"))
    assert "limits" not in found["resources"]


def test_the_drain_settings_reach_the_pod() -> None:
    config = settings(drain=DrainSettings(pre_stop_s=1.5, drain_s=7, grace_s=60))
    assert pod(config)["terminationGracePeriodSeconds"] == 60
    lifecycle = worker_of(item("Deployment", config))["lifecycle"]
    assert lifecycle == {"preStop": {"sleep": {"seconds": 2}}}
    assert worker_json(config).drain_s == 7
    without = settings(drain=DrainSettings(pre_stop_s=0))
    assert "lifecycle" not in worker_of(item("Deployment", without))


def test_pods_meet_the_restricted_standard() -> None:
    spec = pod(source={"uri": "pip://x"})
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["containers"], *spec["initContainers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    "metadata",
    [None, {"labels": None}, {"labels": {labels.PIPELINE: "x", labels.MODEL: None, "own": "y"}}],
)
def test_an_overlay_cannot_take_the_selector_s_labels_away(metadata: Any) -> None:
    found = item("Deployment", podTemplate={"metadata": metadata})["spec"]
    selected = found["selector"]["matchLabels"]
    assert selected == {labels.PIPELINE: "shop", labels.MODEL: "bert-base"}
    assert selected.items() <= found["template"]["metadata"]["labels"].items()
    assert found["template"]["metadata"]["labels"][labels.TEMPLATE_HASH]


def test_an_overlay_cannot_remove_the_worker() -> None:
    overlay = {"spec": {"containers": [{"name": "worker", "$patch": "delete"}]}}
    rendered = Installation().rendered(one_model(podTemplate=overlay))
    assert "removes the container 'worker'" in rendered.findings[0].message
    assert rendered.models == {}


def test_an_image_of_the_overlay_is_the_one_that_is_pinned() -> None:
    overlay = {"spec": {"containers": [{"name": "worker", "image": "mine:1"}]}}
    rendered = Installation().rendered(one_model(podTemplate=overlay))
    assert rendered.models["bert-base"].image == "mine:1"


def test_the_type_of_a_model_is_not_on_its_pods() -> None:
    found = item("Deployment", type="Audio")
    assert found["metadata"]["labels"][labels.MODEL_TYPE] == "Audio"
    assert labels.MODEL_TYPE not in found["spec"]["template"]["metadata"]["labels"]


def test_the_metrics_of_the_user_reach_the_autoscaler_untouched() -> None:
    metrics = [{"type": "Object", "object": {"metric": {"name": "m", "odd_Name": None}, "x": []}}]
    behavior = {"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}
    scaling = {"minReplicas": 2, "maxReplicas": 8, "metrics": metrics, "behavior": behavior}
    spec = item("HorizontalPodAutoscaler", autoscaling=scaling)["spec"]
    assert (spec["metrics"], spec["behavior"]) == (metrics, behavior)
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)


def test_an_autoscaler_without_metrics_keeps_the_processor_at_70_percent() -> None:
    (metric,) = item("HorizontalPodAutoscaler", autoscaling={"maxReplicas": 8})["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}


BUDGETS: dict[str, tuple[dict[str, Any], bool]] = {
    "one replica": ({"replicas": 1}, False),
    "two replicas": ({"replicas": 2}, True),
    "up to four": ({"autoscaling": {"maxReplicas": 4}}, True),
    "up to one": ({"autoscaling": {"maxReplicas": 1}}, False),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_more_than_one_replica_gets_a_disruption_budget(case: str) -> None:
    fields, expected = BUDGETS[case]
    assert (("PodDisruptionBudget", NAME) in names(**fields)) is expected


def test_only_models_that_fetch_their_weights_may_leave_the_cluster() -> None:
    raw = one_model(source={"uri": "hf://a/b"})
    raw["spec"]["models"].append({"name": "ready", "source": {"uri": "oci://x"}})
    policy = find(Installation().rendered(raw), "NetworkPolicy", "shop-prepare")
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert expression == {"key": labels.MODEL, "operator": "In", "values": ["bert-base"]}
    assert ("NetworkPolicy", "shop-prepare") not in names()


def test_an_installation_may_do_without_network_policies() -> None:
    assert "NetworkPolicy" not in {kind for kind, _ in names(settings(network_policies=False))}


def test_objects_come_in_the_order_of_applying_and_belong_to_the_pipeline() -> None:
    rendered = Installation().rendered(one_model(autoscaling={"maxReplicas": 3}))
    kinds = [one["kind"] for one in rendered.objects]
    assert kinds == sorted(kinds, key=CHILD_KINDS.index)
    for one in rendered.objects:
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == (
            "ModelPipeline",
            "shop",
            True,
        )
        # Who deletes in the foreground waits for these, and only for these.
        assert owner["blockOwnerDeletion"] is True
        assert one["metadata"]["labels"][labels.MANAGED_BY] == labels.OPERATOR_NAME


def test_a_pipeline_of_64_models_with_the_longest_names_has_no_name_twice() -> None:
    models = [
        {"name": f"{'m' * 37}-{number:02}", "source": {"uri": "oci://x"}} for number in range(64)
    ]
    document = {
        "apiVersion": "deepseek.ai/v1alpha1",
        "kind": "ModelPipeline",
        "metadata": {"name": "p" * 63},
        "spec": {"models": models},
    }
    rendered = Installation().rendered(stored(document))
    keys = [(one["kind"], one["metadata"]["name"]) for one in rendered.objects]
    assert len(set(keys)) == len(keys) == 64 * 4 + 2
    assert len(json.dumps(rendered.objects)) < 4 * 1024 * 1024
