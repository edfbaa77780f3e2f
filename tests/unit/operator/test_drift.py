from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from deepseek_operator.drift import differs, stamped
from deepseek_operator.labels import APPLIED

from tests.support.rendering import Installation, find, from_file, one_model, worker_of
from tests.unit.operator.test_render_golden import CASES as PIPELINES

NAME = "shop-bert-base"


def desired(kind: str = "Deployment", **fields: Any) -> dict[str, Any]:
    return find(Installation().rendered(one_model(**fields)), kind, NAME)


def defaulted(item: dict[str, Any]) -> dict[str, Any]:
    """A Deployment as a server gives it back: with its defaults and in its spelling."""
    live = copy.deepcopy(item)
    live["metadata"] |= {"resourceVersion": "7", "generation": 2, "managedFields": [{}]}
    live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    live["status"] = {"replicas": 1}
    spec = live["spec"]
    spec["template"]["metadata"]["creationTimestamp"] = None
    pod = spec["template"]["spec"]
    pod |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default"}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["defaultMode"] = 420
    for container in pod["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container[probe]["successThreshold"] = 1
            container[probe]["httpGet"]["scheme"] = "HTTP"
    return live


def test_what_the_server_adds_is_no_difference() -> None:
    item = desired()
    assert not differs(item, defaulted(item))


@pytest.mark.parametrize("case", PIPELINES)
def test_no_object_differs_from_itself(case: str) -> None:
    for item in Installation().rendered(from_file(PIPELINES[case])).objects:
        assert not differs(item, copy.deepcopy(item))


def resources(**requests: Any) -> dict[str, Any]:
    return desired(resources={"requests": requests})


@pytest.mark.parametrize(
    ("written", "stored"),
    [("0.5", "500m"), ("1000m", "1"), (2, "2"), ("1024Mi", "1Gi"), ("1e3", "1k")],
)
def test_quantities_are_compared_by_value(written: Any, stored: str) -> None:
    item = resources(cpu=written)
    live = defaulted(item)
    worker_of(live)["resources"]["requests"]["cpu"] = stored
    assert not differs(item, live)


def test_another_quantity_is_a_difference() -> None:
    item = resources(cpu="500m")
    live = defaulted(item)
    worker_of(live)["resources"]["requests"]["cpu"] = "501m"
    assert differs(item, live)


def test_text_that_only_looks_like_a_quantity_is_text() -> None:
    overlay = {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}]}]}}
    item = desired(podTemplate=overlay)
    live = defaulted(item)
    worker_of(live)["env"][0]["value"] = "1000m"
    assert differs(item, live)


def test_what_the_server_leaves_out_because_it_is_empty_is_no_difference() -> None:
    overlay = {
        "spec": {
            "hostNetwork": False,
            "nodeSelector": {},
            "tolerations": [],
            "containers": [{"name": "worker", "env": [{"name": "EMPTY", "value": ""}]}],
        }
    }
    item = desired(podTemplate=overlay)
    live = defaulted(item)
    for field in overlay["spec"].keys() - {"containers"}:
        del live["spec"]["template"]["spec"][field]
    del worker_of(live)["env"][0]["value"]
    assert not differs(item, live)


def test_a_removed_false_is_a_difference_where_absent_means_true() -> None:
    item = desired()
    live = defaulted(item)
    del live["spec"]["template"]["spec"]["automountServiceAccountToken"]
    assert differs(item, live)


def _image(live: dict[str, Any]) -> None:
    worker_of(live)["image"] = "other"


def _mount(live: dict[str, Any]) -> None:
    worker_of(live)["volumeMounts"].pop()


def _selector(live: dict[str, Any]) -> None:
    live["spec"]["selector"]["matchLabels"]["deepseek.ai/model"] = "other"


def _label(live: dict[str, Any]) -> None:
    del live["metadata"]["labels"]["deepseek.ai/model"]


def _owner(live: dict[str, Any]) -> None:
    del live["metadata"]["ownerReferences"]


def _owner_that_does_not_wait(live: dict[str, Any]) -> None:
    live["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = False


def _arguments(live: dict[str, Any]) -> None:
    worker_of(live)["securityContext"]["capabilities"]["drop"].append("NET_RAW")


def _port(live: dict[str, Any]) -> None:
    worker_of(live)["ports"].reverse()


def _flag(live: dict[str, Any]) -> None:
    worker_of(live)["securityContext"]["readOnlyRootFilesystem"] = False


@pytest.mark.parametrize(
    "damage",
    [
        _image,
        _mount,
        _selector,
        _label,
        _owner,
        _owner_that_does_not_wait,
        _arguments,
        _port,
        _flag,
    ],
)
def test_a_change_of_what_was_applied_is_a_difference(
    damage: Callable[[dict[str, Any]], None],
) -> None:
    item = desired()
    live = defaulted(item)
    damage(live)
    assert differs(item, live)


def test_what_others_add_to_a_keyed_list_is_theirs() -> None:
    item = desired()
    live = defaulted(item)
    live["spec"]["template"]["spec"]["containers"].insert(0, {"name": "mesh", "image": "mesh"})
    worker_of(live)["volumeMounts"].insert(0, {"name": "mesh", "mountPath": "/mesh"})
    assert not differs(item, live)


def test_a_field_that_is_no_longer_wanted_is_a_difference() -> None:
    overlay = {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}]}]}}
    live = defaulted(desired(podTemplate=overlay))
    assert differs(desired(), live)


def test_replicas_that_an_autoscaler_takes_over_are_a_difference_once() -> None:
    fixed, scaled = desired(replicas=3), desired(autoscaling={"maxReplicas": 9})
    assert "replicas" not in scaled["spec"]
    assert differs(scaled, fixed)
    live = defaulted(scaled)
    live["spec"]["replicas"] = 7
    assert not differs(scaled, live)


def test_a_rule_that_allows_everything_is_not_a_narrower_one() -> None:
    item = stamped({"metadata": {"name": "x"}, "spec": {"egress": [{}]}})
    live = copy.deepcopy(item)
    live["spec"]["egress"] = [{"ports": [{"port": 53}]}]
    assert differs(item, live)


def test_the_stamp_depends_on_the_body_alone() -> None:
    one, other = {"metadata": {}, "spec": {"a": 1, "b": 2}}, {"spec": {"b": 2, "a": 1}}
    assert stamped(one) == stamped({**other, "metadata": {}})
    assert (
        stamped(one)["metadata"]["annotations"][APPLIED]
        != (stamped({"metadata": {}, "spec": {}})["metadata"]["annotations"][APPLIED])
    )
