"""The Kubernetes runtime's operator: a stage as a pod."""

from __future__ import annotations

import time
from functools import cached_property
from http import HTTPStatus
from typing import Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from airsmith.airflow.operators.base import ReusableStage, fail, typed_errors
from airsmith.airflow.operators.pod_manager import StagePodManager
from airsmith.airflow.task_owner import task_owner
from airsmith.airflow.triggers.pod import ENDING, STAGE, TIMEOUT_SECONDS, QueuedPodTrigger
from airsmith.cluster.pod_failures import failure_of, has_ended, has_succeeded, missing, not_created
from airsmith.cluster.queue import is_held_back, queue_of
from airsmith.cluster.stage_pod import CONTAINER, pod_name, stage_pod
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import TRAINING
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.settings import load_settings

MOST_PREEMPTIONS = 100
"""After which a preempted training counts as a failure, and uses up a retry."""
LOG_SECONDS = 30
POLL_SECONDS = 1
_POD_UID, _PREEMPTIONS = "pod_uid", "preemptions"
"""Of `trigger_kwargs`: they come back in the trigger's event."""


class KubernetesStageOperator(ReusableStage, KubernetesPodOperator):
    """Run a stage in a pod, unless its output is there already.

    The pod has the run's and the stage's name, so the API server itself refuses a second one. A worker that dies, and
    for a training also one that is told to stop, leaves the pod at work; the task's next try adopts it. A training
    waits in Kueue's queue without a worker; where other work takes its place, it queues again within the same try.

    The provider pushes the XComs `pod_name` and `pod_namespace`, with no way to switch that off; nothing reads them.

    :param stage: name of the stage.
    :param run_uri: URI of the run's folder (templated).
    """

    template_fields = (*KubernetesPodOperator.template_fields, "run_uri")
    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, run_uri: str, **kwargs: Any) -> None:
        super().__init__(
            base_container_name=CONTAINER,
            random_name_suffix=False,
            startup_check_interval_seconds=POLL_SECONDS,
            poll_interval=POLL_SECONDS,
            logging_interval=LOG_SECONDS,
            container_name_log_prefix_enabled=False,
            log_pod_spec_on_failure=False,
            do_xcom_push=False,
            **kwargs,
        )
        self.stage = stage
        self.run_uri = run_uri

    @cached_property
    def pod_manager(self) -> StagePodManager:
        """What follows the pod of a short stage."""
        return StagePodManager(kube_client=self.client, callbacks=self.callbacks)

    def execute(self, context: Context) -> None:
        """Bring the stage to its output. A training goes on in the triggerer, see `trigger_reentry`.

        :raises StageError: of the class that says what failed.
        """
        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            if self.reuse_output(context, run, run.read_spec()):
                return
            super().execute(context)
            self.finish(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> None:
        """Go on with what the triggerer has seen; defers again while the pod works, or where its place was taken.

        :raises StageError: of the class that says what failed.
        """
        preemptions = event.get(_PREEMPTIONS, 0)
        self.trigger_kwargs = {_PREEMPTIONS: preemptions}
        with typed_errors(self.log):
            try:
                self._follow(context, event)
            except AirsmithError as error:
                if error.kind is not ErrorKind.PREEMPTED or preemptions >= MOST_PREEMPTIONS:
                    raise
                self.log.warning("%s A new pod takes its turn and goes on from the newest checkpoint.", error.message)
                self.pod, self.trigger_kwargs = None, {_PREEMPTIONS: preemptions + 1}
                self.execute_async(context)
            self.finish(context)

    def invoke_defer_method(self, last_log_time: Any = None, context: Context | None = None) -> None:
        """Leave the pod to the triggerer, with what is needed to understand how it ends."""
        assert self.pod is not None
        self.trigger_kwargs = {**(self.trigger_kwargs or {}), _POD_UID: self.pod.metadata.uid, STAGE: self.stage}
        if self.execution_timeout is not None:
            self.trigger_kwargs[TIMEOUT_SECONDS] = self.execution_timeout.total_seconds()
        if is_held_back(self.pod):
            self.log.info("Pod %s waits in queue %s, and holds no worker.", self.pod.metadata.name, queue_of(self.pod))
        super().invoke_defer_method(last_log_time)  # Without the context: it stands for timeouts that begin too early.

    def defer(self, *, trigger: BaseTrigger, **how: Any) -> NoReturn:
        """Defer to the trigger that also waits in a queue."""
        super().defer(trigger=QueuedPodTrigger(**trigger.serialize()[1]), **how)

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The stage's pod, with the labels by which Airflow knows its own."""
        run = Run.open(self.run_uri)
        spec = run.read_spec()
        digest = look_up_output(run, spec, self.stage).digest
        self.full_pod_spec = stage_pod(self.stage, run, spec, digest, load_settings())
        if context is not None:
            self.full_pod_spec.metadata.annotations.update(task_owner(context).annotations())
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """The pod that is at work already, else a new one in the place of any that has ended."""
        name = pod_request_obj.metadata.name
        while True:
            standing = self._read_pod(name)
            if standing is not None and not has_ended(standing) and standing.metadata.deletion_timestamp is None:
                self.log.info("Pod %s is at work already: following it.", name)
                return standing
            if standing is not None:
                self._remove(standing)
            try:
                return self.client.create_namespaced_pod(self.namespace, pod_request_obj)
            except ApiException as refusal:
                if refusal.status != HTTPStatus.CONFLICT:
                    raise not_created(self.stage, refusal) from refusal

    def find_pod(self, namespace: str, context: Context, *, exclude_checked: bool = True) -> k8s.V1Pod | None:
        """This task's pod, by its name."""
        return None if self.pod is None else self._read_pod(self.pod.metadata.name)

    def cleanup(
        self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, xcom_result: Any = None, context: Context | None = None
    ) -> None:
        """Remove the pod once it has ended, and raise what it died of. A pod at work stays, for the next try to adopt.

        :raises AirsmithError: of the kind that the pod's end says.
        """
        if self._killed or self.pod is None:
            return
        ended = self._read_pod(self.pod.metadata.name)
        if ended is None:
            self._fail(missing(self.stage, self.pod.metadata.name))
        if ended.status.phase == "Running" and not has_ended(ended):
            return
        error = None if has_succeeded(ended) else failure_of(self.stage, ended, self._events(ended.metadata.uid))
        self.process_pod_deletion(ended, reraise=False)
        if error is not None:
            self._fail(error)

    def on_kill(self) -> None:
        """End a short stage's pod. A training goes on: its worker may only be restarting, and the triggerer ends it
        when a person does."""
        if self.stage in TRAINING:
            self.log.info("The pod goes on; the task's next try follows it.")
            self._killed = True
        else:
            super().on_kill()

    def _follow(self, context: Context, event: dict[str, Any]) -> None:
        """Go on as the provider does, and find out why a pod is not there any more."""
        try:
            super().trigger_reentry(context, event)
        except AirflowException:
            left = self._read_pod(event["name"])
            if left is None:
                seen = AirsmithError.from_json_line(event.get(ENDING, ""))
                self._fail(seen or missing(self.stage, event["name"], self._events(event[_POD_UID])))
            if event["status"] == "timeout":  # of the attempt: what did not start in time is removed already
                self._remove(left)
            raise

    def _fail(self, error: AirsmithError) -> NoReturn:
        fail(error, self.stage, Run.open(self.run_uri), self.log)

    def remove_leftovers(self, run: Run, spec: RunSpec) -> None:
        """Remove the pod of an earlier try whose worker died after the pod's end."""
        left = self._read_pod(pod_name(self.stage, run, spec))
        if left is not None and has_ended(left):
            self._remove(left)

    def _read_pod(self, name: str) -> k8s.V1Pod | None:
        try:
            return self.client.read_namespaced_pod(name, self.namespace)
        except ApiException as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _events(self, pod_uid: str) -> list[k8s.CoreV1Event]:
        about = f"involvedObject.uid={pod_uid}"
        events: list[k8s.CoreV1Event] = self.client.list_namespaced_event(self.namespace, field_selector=about).items
        return events

    def _remove(self, pod: k8s.V1Pod) -> None:
        """Delete a pod and wait until it is gone, so that two never work at once.

        :raises AirsmithError: `node_lost` where nobody can say whether its process has ended.
        """
        name = pod.metadata.name
        grace_seconds = pod.spec.termination_grace_period_seconds or 0
        self.log.info("Waiting for the end of an earlier pod %s (%s).", name, pod.status.phase)
        if pod.metadata.deletion_timestamp is None:
            self.client.delete_namespaced_pod(name, self.namespace)
        deadline = time.monotonic() + grace_seconds + self.startup_timeout_seconds
        while (left := self._read_pod(name)) is not None and left.metadata.uid == pod.metadata.uid:
            if time.monotonic() > deadline:
                raise AirsmithError(
                    ErrorKind.NODE_LOST,
                    f"The earlier pod {name} does not end: its node {pod.spec.node_name} may be lost with it at work.",
                    "Delete the node, or taint it node.kubernetes.io/out-of-service, once it is surely off.",
                )
            time.sleep(POLL_SECONDS)
