"""The trigger of a queued pod, on an API server with given responses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import TriggerEvent
from tenacity import stop_after_attempt

from airsmith.airflow.triggers import pod as queued_trigger
from airsmith.airflow.triggers.pod import DISRUPTION, STAGE, TIMEOUT_SECONDS, QueuedPodTrigger
from airsmith.cluster.queue import pending_path, workloads_path
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.http_servers import QuietHandler, serve_http

NAMESPACE, QUEUE, UID = "airsmith", "nlp", "42"
POD = f"/api/v1/namespaces/{NAMESPACE}/pods/p"
PENDING, WORKLOADS = pending_path(NAMESPACE, QUEUE), workloads_path(NAMESPACE)


def pod(phase: str = "Pending", *gates: str, scheduled_at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p", "namespace": NAMESPACE, "uid": UID, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kueue.x-k8s.io/queue-name": QUEUE},
        },
        "spec": {"containers": [{"name": "base"}], "schedulingGates": [{"name": gate} for gate in gates]},
        "status": {
            "phase": phase,
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled_at}],
        },
    }  # fmt: skip


DROP_CONNECTION = object()
GATED = pod("Pending", "kueue.x-k8s.io/admission", "kueue.x-k8s.io/topology")


def position(number: int) -> dict[str, Any]:
    workload = {"metadata": {"ownerReferences": [{"uid": UID}]}, "positionInLocalQueue": number - 1}
    return {"items": [{**workload, "positionInClusterQueue": number - 1}]}


@contextmanager
def api_server(responses: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """An API server with a list of responses for each path, the last of which repeats.

    None is a 404; `DROP_CONNECTION` closes the connection without a response.

    :returns: its kubeconfig.
    """

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            remaining = responses.get(self.path.split("?")[0], [None])
            response = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            if response is DROP_CONNECTION:
                return
            self.send_response(404 if response is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(response or {}).encode())

    with serve_http(Handler) as address:
        yield {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }


def trigger(kubeconfig: dict[str, Any], **trigger_kwargs: Any) -> QueuedPodTrigger:
    return QueuedPodTrigger(
        pod_name="p", pod_namespace=NAMESPACE, base_container_name="base", config_dict=kubeconfig,
        trigger_start_time=datetime.now(timezone.utc), log_events_on_startup=False, schedule_timeout=0,
        trigger_kwargs=trigger_kwargs,
    )  # fmt: skip


def event_of(trigger: QueuedPodTrigger) -> dict[str, Any]:
    """The trigger's event."""

    async def run() -> TriggerEvent:
        return await anext(trigger.run())

    event: dict[str, Any] = asyncio.run(run()).payload
    return event


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_trigger, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(AsyncKubernetesHook.get_pod.retry, "stop", stop_after_attempt(1))  # the hook retries too


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"(Waiting[^\[]*queue.*?|Its turn.*?) +\[", capsys.readouterr().out)


def test_the_position_is_logged_when_it_changes_and_no_timeout_applies(capsys: pytest.CaptureFixture[str]) -> None:
    responses = {
        POD: [GATED, GATED, GATED, GATED, pod("Succeeded")],
        PENDING: [position(2), position(2), position(1), position(1)],
        WORKLOADS: [{"items": []}],
    }
    with api_server(responses) as kubeconfig:
        event = event_of(trigger(kubeconfig, pod_uid=UID))
    assert event["status"] == "success"
    assert event["pod_uid"] == UID
    first, second, turn = lines(capsys)
    assert first == "Waiting: position 2 in queue nlp."
    assert second == "Waiting: position 1 in queue nlp."
    assert turn.startswith("Admitted after ")


def test_the_trigger_works_without_the_visibility_api(capsys: pytest.CaptureFixture[str]) -> None:
    with api_server({POD: [GATED, pod("Succeeded")]}) as kubeconfig:
        assert event_of(trigger(kubeconfig))["status"] == "success"
    assert lines(capsys)[0] == "Waiting in queue nlp."


def test_a_dropped_connection_is_retried(capsys: pytest.CaptureFixture[str]) -> None:
    unqueued = {**pod("Succeeded"), "metadata": {"name": "p", "namespace": NAMESPACE}}
    with api_server({POD: [DROP_CONNECTION, DROP_CONNECTION, DROP_CONNECTION, unqueued]}) as kubeconfig:
        assert event_of(trigger(kubeconfig))["status"] == "success"
    assert "The cluster does not respond (ServerDisconnectedError). Retrying." in capsys.readouterr().out


def test_the_execution_timeout_counts_from_admission() -> None:
    an_hour = 3600
    with api_server({POD: [GATED, pod("Running", scheduled_at="2026-01-01T05:00:00Z")]}) as kubeconfig:
        event = event_of(trigger(kubeconfig, **{TIMEOUT_SECONDS: an_hour}))
    assert event["status"] == "timeout"
    assert event["_execution_deadline"] == datetime(2026, 1, 1, 6, tzinfo=timezone.utc).timestamp()


def test_a_pod_that_is_deleted_in_the_queue_is_reported_as_an_error() -> None:
    with api_server({POD: [GATED, None]}) as kubeconfig:
        assert event_of(trigger(kubeconfig))["status"] == "error"


def test_the_reason_of_an_eviction_is_kept_after_the_pod_is_deleted() -> None:
    drained = pod("Running", scheduled_at=datetime.now(timezone.utc).isoformat())
    drained["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    )
    with api_server({POD: [drained, drained, drained, None]}) as kubeconfig:
        event = event_of(trigger(kubeconfig, **{STAGE: "train"}))
    error = AirsmithError.from_json_line(event[DISRUPTION])
    assert error is not None
    assert (error.kind, error.message) == (
        ErrorKind.EVICTED,
        "The pod of stage train was terminated: its node was drained.",
    )


def test_an_old_pod_is_polled_less_often() -> None:
    for scheduled_at, seconds in ((datetime.now(timezone.utc).isoformat(), 0.01), ("2026-01-01T00:00:00Z", 10.0)):
        with api_server({POD: [pod("Running", scheduled_at=scheduled_at)]}) as kubeconfig:
            queued = trigger(kubeconfig)
            asyncio.run(queued._get_pod())
        assert queued.poll_interval == pytest.approx(seconds, abs=0.05)


def test_the_trigger_round_trips_through_serialization() -> None:
    path, arguments = trigger({}, pod_uid=UID).serialize()
    assert path == f"{QueuedPodTrigger.__module__}.QueuedPodTrigger"
    assert QueuedPodTrigger(**arguments).serialize() == (path, arguments)
