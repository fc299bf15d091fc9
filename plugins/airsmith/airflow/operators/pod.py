"""Operator of a stage that runs in a pod."""

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
from airsmith.airflow.triggers.pod import DISRUPTION, STAGE, TIMEOUT_SECONDS, QueuedPodTrigger
from airsmith.cluster.pod_failures import creation_error, failure_of, has_finished, has_succeeded, pod_missing
from airsmith.cluster.queue import is_queued, queue_of
from airsmith.cluster.stage_pod import CONTAINER, pod_name, stage_pod
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import TRAINING
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.settings import load_settings

MAX_PREEMPTIONS = 100
"""Preemptions after which a training fails and uses a retry."""
LOG_SECONDS = 30
POLL_SECONDS = 1
_POD_UID, _PREEMPTIONS = "pod_uid", "preemptions"
"""Keys of `trigger_kwargs`, which the trigger's event returns."""


class KubernetesStageOperator(ReusableStage, KubernetesPodOperator):
    """Run a stage in a pod, unless its output exists.

    The pod is named after the run and the stage, so the API server rejects a second one. If the worker dies, or is
    stopped during a training, the pod continues and the task's next try adopts it. A training waits in Kueue's queue
    without occupying a worker; if it is preempted, it queues again within the same try.

    The provider always pushes the XComs `pod_name` and `pod_namespace`; nothing reads them.

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
        """The manager that follows the pod of a short stage."""
        return StagePodManager(kube_client=self.client, callbacks=self.callbacks)

    def execute(self, context: Context) -> None:
        """Run the stage. A training defers; `trigger_reentry` continues it.

        :raises StageError: the subclass of the error's kind.
        """
        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            if self.reuse_output(context, run, run.read_spec()):
                return
            super().execute(context)
            self.finish(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> None:
        """Handle the trigger's event. It defers again while the pod is running, or with a new pod after a preemption.

        :raises StageError: the subclass of the error's kind.
        """
        preemptions = event.get(_PREEMPTIONS, 0)
        self.trigger_kwargs = {_PREEMPTIONS: preemptions}
        with typed_errors(self.log):
            try:
                self._follow(context, event)
            except AirsmithError as error:
                if error.kind is not ErrorKind.PREEMPTED or preemptions >= MAX_PREEMPTIONS:
                    raise
                self.log.warning("%s A new pod is queued and resumes from the newest checkpoint.", error.message)
                self.pod, self.trigger_kwargs = None, {_PREEMPTIONS: preemptions + 1}
                self.execute_async(context)
            self.finish(context)

    def invoke_defer_method(self, last_log_time: Any = None, context: Context | None = None) -> None:
        """Defer to the trigger, with what it needs to explain the pod's end."""
        assert self.pod is not None
        self.trigger_kwargs = {**(self.trigger_kwargs or {}), _POD_UID: self.pod.metadata.uid, STAGE: self.stage}
        if self.execution_timeout is not None:
            self.trigger_kwargs[TIMEOUT_SECONDS] = self.execution_timeout.total_seconds()
        if is_queued(self.pod):
            self.log.info("Pod %s is in queue %s and occupies no worker.", self.pod.metadata.name, queue_of(self.pod))
        super().invoke_defer_method(last_log_time)  # Given the context, the provider starts the timeout too early.

    def defer(self, *, trigger: BaseTrigger, **how: Any) -> NoReturn:
        """Defer to the trigger that also handles queued pods."""
        super().defer(trigger=QueuedPodTrigger(**trigger.serialize()[1]), **how)

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """The stage's pod, with the provider's labels."""
        run = Run.open(self.run_uri)
        spec = run.read_spec()
        digest = look_up_output(run, spec, self.stage).digest
        self.full_pod_spec = stage_pod(self.stage, run, spec, digest, load_settings())
        if context is not None:
            self.full_pod_spec.metadata.annotations.update(task_owner(context).annotations())
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """The running pod if one exists; otherwise a new one, which replaces any finished one."""
        name = pod_request_obj.metadata.name
        while True:
            standing = self._read_pod(name)
            if standing is not None and not has_finished(standing) and standing.metadata.deletion_timestamp is None:
                self.log.info("Adopting the running pod %s.", name)
                return standing
            if standing is not None:
                self._delete(standing)
            try:
                return self.client.create_namespaced_pod(self.namespace, pod_request_obj)
            except ApiException as refusal:
                if refusal.status != HTTPStatus.CONFLICT:
                    raise creation_error(self.stage, refusal) from refusal

    def find_pod(self, namespace: str, context: Context, *, exclude_checked: bool = True) -> k8s.V1Pod | None:
        """This task's pod, found by name."""
        return None if self.pod is None else self._read_pod(self.pod.metadata.name)

    def cleanup(
        self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, xcom_result: Any = None, context: Context | None = None
    ) -> None:
        """Delete a finished pod and raise its error. A running pod stays for the next try to adopt.

        :raises AirsmithError: the error of a failed pod.
        """
        if self._killed or self.pod is None:
            return
        ended = self._read_pod(self.pod.metadata.name)
        if ended is None:
            self._fail(pod_missing(self.stage, self.pod.metadata.name))
        if ended.status.phase == "Running" and not has_finished(ended):
            return
        error = None if has_succeeded(ended) else failure_of(self.stage, ended, self._events(ended.metadata.uid))
        self.process_pod_deletion(ended, reraise=False)
        if error is not None:
            self._fail(error)

    def on_kill(self) -> None:
        """Delete the pod of a short stage. A training continues: its worker may only be restarting, and the triggerer
        deletes the pod when a user stops the task."""
        if self.stage in TRAINING:
            self.log.info("The pod continues; the task's next try adopts it.")
            self._killed = True
        else:
            super().on_kill()

    def _follow(self, context: Context, event: dict[str, Any]) -> None:
        """Handle the event as the provider does, and find out why a pod no longer exists."""
        try:
            super().trigger_reentry(context, event)
        except AirflowException:
            pod = self._read_pod(event["name"])
            if pod is None:
                disruption = AirsmithError.from_json_line(event.get(DISRUPTION, ""))
                self._fail(disruption or pod_missing(self.stage, event["name"], self._events(event[_POD_UID])))
            if event["status"] == "timeout":  # The task's timeout: a pod that did not start in time is already deleted.
                self._delete(pod)
            raise

    def _fail(self, error: AirsmithError) -> NoReturn:
        fail(error, self.stage, Run.open(self.run_uri), self.log)

    def remove_leftovers(self, run: Run, spec: RunSpec) -> None:
        """Delete the pod of an earlier try whose worker died after the pod had finished."""
        left = self._read_pod(pod_name(self.stage, run, spec))
        if left is not None and has_finished(left):
            self._delete(left)

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

    def _delete(self, pod: k8s.V1Pod) -> None:
        """Delete a pod and wait until it is gone, so that two never run at once.

        :raises AirsmithError: `node_lost` if the pod's node may still run it.
        """
        name = pod.metadata.name
        grace_seconds = pod.spec.termination_grace_period_seconds or 0
        self.log.info("Waiting for the deletion of an earlier pod %s (%s).", name, pod.status.phase)
        if pod.metadata.deletion_timestamp is None:
            self.client.delete_namespaced_pod(name, self.namespace)
        deadline = time.monotonic() + grace_seconds + self.startup_timeout_seconds
        while (left := self._read_pod(name)) is not None and left.metadata.uid == pod.metadata.uid:
            if time.monotonic() > deadline:
                raise AirsmithError(
                    ErrorKind.NODE_LOST,
                    f"The earlier pod {name} is not deleted: its lost node {pod.spec.node_name} may still run it.",
                    "After the node is powered off, delete it or taint it node.kubernetes.io/out-of-service.",
                )
            time.sleep(POLL_SECONDS)
