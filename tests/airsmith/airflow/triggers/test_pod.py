"""The trigger of a queued pod, against an API server on loopback that answers what it is told to."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import TriggerEvent
from tenacity import stop_after_attempt

from airsmith.airflow.triggers import pod as queued_trigger
from airsmith.airflow.triggers.pod import DISRUPTION, STAGE, TIMEOUT_SECONDS, QueuedPodTrigger
from airsmith.cluster.queue import pending_path, workloads_path
from airsmith.errors import AirsmithError, ErrorKind

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


SILENCE = object()
GATED = pod("Pending", "kueue.x-k8s.io/admission", "kueue.x-k8s.io/topology")


def place(number: int) -> dict[str, Any]:
    mine = {"metadata": {"ownerReferences": [{"uid": UID}]}, "positionInLocalQueue": number - 1}
    return {"items": [{**mine, "positionInClusterQueue": number - 1}]}


@contextmanager
def api_server(answers: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """An API server that answers a path with one thing after another, the last one again and again.

    None is a 404, `SILENCE` a connection that it drops.

    :returns: its kubeconfig.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left = answers.get(self.path.split("?")[0], [None])
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer is SILENCE:
                return
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer or {}).encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    finally:
        server.shutdown()
        server.server_close()


def trigger(kubeconfig: dict[str, Any], **trigger_kwargs: Any) -> QueuedPodTrigger:
    return QueuedPodTrigger(
        pod_name="p", pod_namespace=NAMESPACE, base_container_name="base", config_dict=kubeconfig,
        trigger_start_time=datetime.now(timezone.utc), log_events_on_startup=False, schedule_timeout=0,
        trigger_kwargs=trigger_kwargs,
    )  # fmt: skip


def fired(waiting: QueuedPodTrigger) -> dict[str, Any]:
    """The trigger's event."""

    async def run() -> TriggerEvent:
        return await anext(waiting.run())

    event: dict[str, Any] = asyncio.run(run()).payload
    return event


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_trigger, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(AsyncKubernetesHook.get_pod.retry, "stop", stop_after_attempt(1))  # for the hook's own patience


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.findall(r"(Waiting[^\[]*queue.*?|Its turn.*?) +\[", capsys.readouterr().out)


def test_the_place_is_told_when_it_changes_and_no_timeout_runs_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    answers = {
        POD: [GATED, GATED, GATED, GATED, pod("Succeeded")],
        PENDING: [place(2), place(2), place(1), place(1)],
        WORKLOADS: [{"items": []}],
    }
    with api_server(answers) as kubeconfig:
        event = fired(trigger(kubeconfig, pod_uid=UID))
    assert event["status"] == "success"
    assert event["pod_uid"] == UID
    first, second, turn = lines(capsys)
    assert first == "Waiting: place 2 in queue nlp."
    assert second == "Waiting: place 1 in queue nlp."
    assert turn.startswith("Its turn has come after ")


def test_where_kueue_shows_no_places_it_waits_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with api_server({POD: [GATED, pod("Succeeded")]}) as kubeconfig:
        assert fired(trigger(kubeconfig))["status"] == "success"
    assert lines(capsys)[0] == "Waiting in queue nlp."


def test_a_cluster_that_does_not_answer_for_a_while_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    unqueued = {**pod("Succeeded"), "metadata": {"name": "p", "namespace": NAMESPACE}}
    with api_server({POD: [SILENCE, SILENCE, SILENCE, unqueued]}) as kubeconfig:
        assert fired(trigger(kubeconfig))["status"] == "success"
    assert "The cluster does not answer (ServerDisconnectedError): looking again." in capsys.readouterr().out


def test_the_attempts_own_time_begins_with_the_pods_turn() -> None:
    an_hour = 3600
    with api_server({POD: [GATED, pod("Running", scheduled_at="2026-01-01T05:00:00Z")]}) as kubeconfig:
        event = fired(trigger(kubeconfig, **{TIMEOUT_SECONDS: an_hour}))
    assert event["status"] == "timeout"
    assert event["_execution_deadline"] == datetime(2026, 1, 1, 6, tzinfo=timezone.utc).timestamp()


def test_a_pod_that_vanishes_from_the_queue_is_the_operators_to_explain() -> None:
    with api_server({POD: [GATED, None]}) as kubeconfig:
        assert fired(trigger(kubeconfig))["status"] == "error"


def test_who_ended_a_pod_is_known_after_it_is_gone() -> None:
    drained = pod("Running", scheduled_at=datetime.now(timezone.utc).isoformat())
    drained["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    )
    with api_server({POD: [drained, drained, drained, None]}) as kubeconfig:
        event = fired(trigger(kubeconfig, **{STAGE: "train"}))
    told = AirsmithError.from_json_line(event[DISRUPTION])
    assert told is not None
    assert (told.kind, told.message) == (ErrorKind.EVICTED, "The pod of stage train was ended: its node was drained.")


def test_an_old_pod_is_looked_at_less_often() -> None:
    for scheduled_at, seconds in ((datetime.now(timezone.utc).isoformat(), 0.01), ("2026-01-01T00:00:00Z", 10.0)):
        with api_server({POD: [pod("Running", scheduled_at=scheduled_at)]}) as kubeconfig:
            looking = trigger(kubeconfig)
            asyncio.run(looking._get_pod())
        assert looking.poll_interval == pytest.approx(seconds, abs=0.05)


def test_another_triggerer_makes_the_same_trigger() -> None:
    path, arguments = trigger({}, pod_uid=UID).serialize()
    assert path == f"{QueuedPodTrigger.__module__}.QueuedPodTrigger"
    assert QueuedPodTrigger(**arguments).serialize() == (path, arguments)
