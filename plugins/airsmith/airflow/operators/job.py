"""Operator of a training on several nodes: a job of the recipe's job kind."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowException

from airsmith.airflow.operators.base import ReusableStage, fail, typed_errors
from airsmith.airflow.task_owner import task_owner
from airsmith.airflow.triggers.job import TrainingJobTrigger
from airsmith.cluster.jobs import JOB_KINDS, JobPhase
from airsmith.cluster.jobs.client import JobClient, job_name
from airsmith.cluster.jobs.job_kind import Object
from airsmith.cluster.pod_failures import failure_of, has_finished, has_succeeded
from airsmith.cluster.pod_logs import show_log_since
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind, root_cause
from airsmith.settings import load_settings

_RESUMES = "Run it again: training resumes from its newest checkpoint."


class TrainingJobOperator(ReusableStage, BaseOperator):
    """Train on several nodes, unless the output exists.

    The job is named after the run and the stage, so the API server rejects a second one. The triggerer follows it. The
    job continues if a worker, triggerer or scheduler dies, and the task's next try adopts it. If Kueue preempts the
    job, Kueue also restarts it, within the same try.

    :param stage: name of the stage.
    :param run_uri: URI of the run's folder (templated).
    :param job_kind: the recipe's `backend.job`.
    :param nodes: number of pods that train.
    :param startup_timeout_seconds: maximum time until all pods are running.
    """

    template_fields = ("run_uri",)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        stage: str,
        run_uri: str,
        job_kind: str,
        nodes: int,
        namespace: str,
        kubernetes_conn_id: str | None,
        startup_timeout_seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(do_xcom_push=False, **kwargs)
        self.stage = stage
        self.run_uri = run_uri
        self.job_kind = job_kind
        self.nodes = nodes
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.startup_timeout_seconds = startup_timeout_seconds

    def execute(self, context: Context) -> None:
        """Start the job or adopt a running one, and defer; `resume` continues when the job has finished.

        :raises StageError: the subclass of the error's kind.
        """
        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            spec = run.read_spec()
            name = job_name(self.stage, run, spec)
            if self.reuse_output(context, run, spec):
                return
            job = self._start(name, run, spec, context)
            if self._jobs.job_kind.state_of(job).phase is JobPhase.QUEUED:
                self.log.info("%s %s is queued and occupies no worker.", job["kind"], name)
        timeout = self.execution_timeout
        self.defer(
            trigger=TrainingJobTrigger(
                job_kind=self.job_kind,
                name=name,
                namespace=self.namespace,
                kubernetes_conn_id=self.kubernetes_conn_id,
                stage=self.stage,
                nodes=self.nodes,
                startup_seconds=self.startup_timeout_seconds,
                timeout_seconds=None if timeout is None else timeout.total_seconds(),
            ),
            method_name=self.resume.__name__,
        )

    def resume(self, context: Context, event: dict[str, Any]) -> None:
        """Report how the job has finished, and delete it.

        :raises StageError: the subclass of the error's kind.
        """
        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            name = job_name(self.stage, run, run.read_spec())
            job = self._jobs.read(name)
            if job is not None:
                self._log_remaining_lines(job, event)
            error = self._error(name, job, event)
            if job is not None:
                self._jobs.delete(name, self._deletion_timeout_seconds())
            if event["outcome"] == "timeout":
                raise AirflowException(
                    f"Training exceeded its timeout of {self.execution_timeout}: {name} was deleted."
                )
            if error is not None:
                self._log_recorded_error(run)
                fail(error, self.stage, run, self.log)
            self.finish(context)

    def on_kill(self) -> None:
        """Leave the job running: the worker may only be restarting. The trigger deletes it if a user stops the task."""
        self.log.info("The job continues; the task's next try adopts it.")

    def remove_leftovers(self, run: Run, spec: RunSpec) -> None:
        """Delete the job of an earlier try whose worker died after the job had finished."""
        self._jobs.delete(job_name(self.stage, run, spec), self._deletion_timeout_seconds())

    def _start(self, name: str, run: Run, spec: RunSpec, context: Context) -> Object:
        """The running job if one exists; otherwise a new one, which replaces any finished one."""
        digest = look_up_output(run, spec, self.stage).digest
        pod = stage_pod(self.stage, run, spec, digest, load_settings())
        pod.metadata.annotations.update(task_owner(context).annotations())
        while True:
            standing = self._jobs.read(name)
            if standing is not None:
                if not self._is_over(standing):
                    self.log.info("Adopting the running %s %s.", standing["kind"], name)
                    return standing
                self.log.info("Waiting for the deletion of an earlier %s %s.", standing["kind"], name)
                self._jobs.delete(name, self._deletion_timeout_seconds())
            made = self._jobs.create(self.stage, name, pod, self.nodes)
            if made is not None:
                self.log.info("Created the %s %s with %d nodes.", made["kind"], name, self.nodes)
                return made

    def _is_over(self, job: Object) -> bool:
        return "deletionTimestamp" in job["metadata"] or self._jobs.job_kind.state_of(job).has_finished

    def _error(self, name: str, job: Object | None, event: dict[str, Any]) -> AirsmithError | None:
        """Why the job has no output, from its status and its pods, those that the triggerer saw included."""
        if event["outcome"] == "timeout" or (job is not None and self._has_succeeded(job)):
            return None
        found = [AirsmithError.from_json_line(event["error"])]
        kind = self._jobs.job_kind.RESOURCE.kind
        if job is None:
            message = f"{kind} {name} was deleted, by a user or by the cluster."
            found.append(AirsmithError(ErrorKind.POD_MISSING, message, _RESUMES))
        else:
            found += [
                failure_of(self.stage, pod)
                for pod in self._jobs.pods(self._jobs.job_kind.pods_selector(job))
                if has_finished(pod) and not has_succeeded(pod)
            ]
            message = self._jobs.job_kind.state_of(job).message
            found += [AirsmithError.from_json_line(line) for line in message.splitlines()]
            lines = message.splitlines()
            if event["outcome"] == "not_started":
                message = f"Not all {self.nodes} pods of {kind} {name} started in time."
                found.append(
                    AirsmithError(ErrorKind.UNSCHEDULABLE, message, "See the pods' events and the controller's log.")
                )
            else:
                reason = lines[-1].rstrip(".") if lines else "no reason was reported"
                message = f"{kind} {name} failed, and none of its pods exists anymore: {reason}."
                found.append(AirsmithError(ErrorKind.POD_MISSING, message, _RESUMES))
        errors = [error for error in found if error is not None]
        return root_cause(errors[:-1]) or errors[-1]

    def _has_succeeded(self, job: Object) -> bool:
        return self._jobs.job_kind.state_of(job).phase is JobPhase.SUCCEEDED

    def _log_remaining_lines(self, job: Object, event: dict[str, Any]) -> None:
        for leader in self._jobs.pods(self._jobs.job_kind.leader_selector(job)):
            since = event["read_until"] if leader.metadata.uid == event["leader_uid"] else None
            show_log_since(leader, self._jobs.job_kind.CONTAINER, since, self._jobs.client, self.log)

    def _log_recorded_error(self, run: Run) -> None:
        """Log the error that the leader recorded in the run's folder: its pod and its log may be deleted."""
        status = run.statuses().get(self.stage)
        if status is not None and status.error:
            self.log.info("The training reported: %s %s", status.error, status.hint)

    def _deletion_timeout_seconds(self) -> float:
        return load_settings().kubernetes.termination_grace_seconds + self.startup_timeout_seconds

    @cached_property
    def _jobs(self) -> JobClient:
        client = KubernetesHook(conn_id=self.kubernetes_conn_id).get_conn()
        return JobClient(client, JOB_KINDS[self.job_kind], self.namespace)
