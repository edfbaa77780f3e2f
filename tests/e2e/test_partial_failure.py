"""One broken model of three: the others serve, the cause is told, and a corrected one recovers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from tests.support.cluster import Space, Wire, eventually
from tests.support.cluster_images import Bundle
from tests.support.cluster_probe import answers, reach

WRONG = "sha256:" + "0" * 64
NAME = "partly"


def test_a_bad_digest_breaks_its_own_model_only(
    space: Space,
    pipeline: Callable[..., Wire],
    bundles: dict[str, Bundle],
    figures: Callable[[str], None],
) -> None:
    bad = {"source": bundles["colours"].source | {"digest": WRONG}, "type": "CV"}
    models = {"first": {"bundle": "echo"}, "second": {"bundle": "other"}, "third": bad}
    pipeline(NAME, models)
    started = time.monotonic()
    eventually(
        lambda: space.condition(NAME, "Degraded", "third").get("reason") == "BundleInvalid",
        timeout_s=60,
        what=lambda: space.story(NAME),
    )
    seconds = time.monotonic() - started
    cause = space.condition(NAME, "Degraded", "third")
    assert cause["status"] == "True"
    assert space.pods(NAME, "third")[0]["metadata"]["name"] in cause["message"]
    figures(f"bad digest: the cause {seconds:.1f} s after the pipeline was applied")

    eventually(
        lambda: all(
            space.condition(NAME, "Ready", model).get("status") == "True"
            for model in ("first", "second")
        ),
        what=lambda: space.story(NAME),
    )
    assert space.condition(NAME, "Ready")["status"] == "False"
    assert space.condition(NAME, "Degraded")["status"] == "True"
    for model in ("first", "second"):
        with reach(space, f"{NAME}-{model}") as target:
            eventually(functools.partial(answers, target, model), timeout_s=20)

    kept = {model: space.pod_uids(NAME, model) for model in ("first", "second")}
    good = {"bundle": "colours", "type": "CV"}
    started = time.monotonic()
    pipeline(NAME, models | {"third": good})
    space.wait_ready(NAME)
    figures(f"bad digest corrected: ready after {time.monotonic() - started:.1f} s")
    assert space.condition(NAME, "Degraded", "third")["status"] == "False"
    assert {model: space.pod_uids(NAME, model) for model in kept} == kept
