"""The Kubernetes runtime's operator for a training on several nodes: a job of the recipe's engine."""

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
from airsmith.cluster.jobs import ENGINES, JobPhase
from airsmith.cluster.jobs.client import Jobs, job_name
from airsmith.cluster.jobs.job_kind import Object
from airsmith.cluster.pod_failures import failure_of, has_ended, has_succeeded
from airsmith.cluster.pod_logs import show_rest
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind, most_telling
from airsmith.settings import load_settings

_GOES_ON = "Run it again: it goes on from its newest checkpoint."


class TrainingJobOperator(ReusableStage, BaseOperator):
    """Train on several nodes, unless the output is there already.

    The job has the run's and the stage's name, so the API server itself refuses a second one. It is followed in the
    triggerer, and goes on whoever dies; the task's next try adopts it. Where Kueue takes its place, Kueue also starts
    it again, within the same try.

    :param stage: name of the stage.
    :param run_uri: URI of the run's folder (templated).
    :param engine: the recipe's `backend.job`.
    :param nodes: how many pods train.
    :param startup_timeout_seconds: longest time until all pods are at work.
    """

    template_fields = ("run_uri",)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        stage: str,
        run_uri: str,
        engine: str,
        nodes: int,
        namespace: str,
        kubernetes_conn_id: str | None,
        startup_timeout_seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(do_xcom_push=False, **kwargs)
        self.stage = stage
        self.run_uri = run_uri
        self.engine = engine
        self.nodes = nodes
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.startup_timeout_seconds = startup_timeout_seconds

    def execute(self, context: Context) -> None:
        """Start the job, or follow the one that is at work; `resume` goes on when it has ended.

        :raises StageError: of the class that says what failed.
        """
        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            spec = run.read_spec()
            name = job_name(self.stage, run, spec)
            if self.reuse_output(context, run, spec):
                return
            job = self._start(name, run, spec, context)
            if self._jobs.engine.state_of(job).phase is JobPhase.QUEUED:
                self.log.info("%s %s waits for its turn, and holds no worker.", job["kind"], name)
        timeout = self.execution_timeout
        self.defer(
            trigger=TrainingJobTrigger(
                engine=self.engine,
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
        """Say how the job has ended, and remove it.

        :raises StageError: of the class that says what failed.
        """
        with typed_errors(self.log):
            run = Run.open(self.run_uri)
            name = job_name(self.stage, run, run.read_spec())
            job = self._jobs.read(name)
            if job is not None:
                self._show_rest_of_log(job, event)
            error = self._error(name, job, event)
            if job is not None:
                self._jobs.remove(name, self._longest_removal())
            if event["outcome"] == "timeout":
                raise AirflowException(f"The training takes longer than {self.execution_timeout}: {name} was removed.")
            if error is not None:
                self._show_last_word(run)
                fail(error, self.stage, run, self.log)
            self.finish(context)

    def on_kill(self) -> None:
        """Leave the job at work: the worker may only be restarting. The triggerer ends it when a person does."""
        self.log.info("The job goes on; the task's next try follows it.")

    def remove_leftovers(self, run: Run, spec: RunSpec) -> None:
        """Remove the job of an earlier try whose worker died after the job's end."""
        self._jobs.remove(job_name(self.stage, run, spec), self._longest_removal())

    def _start(self, name: str, run: Run, spec: RunSpec, context: Context) -> Object:
        """The job that is at work already, else a new one in the place of any that has ended."""
        digest = look_up_output(run, spec, self.stage).digest
        pod = stage_pod(self.stage, run, spec, digest, load_settings())
        pod.metadata.annotations.update(task_owner(context).annotations())
        while True:
            standing = self._jobs.read(name)
            if standing is not None:
                if not self._is_over(standing):
                    self.log.info("%s %s is at work already: following it.", standing["kind"], name)
                    return standing
                self.log.info("Waiting for the end of an earlier %s %s.", standing["kind"], name)
                self._jobs.remove(name, self._longest_removal())
            made = self._jobs.create(self.stage, name, pod, self.nodes)
            if made is not None:
                self.log.info("Made the %s %s of %d nodes.", made["kind"], name, self.nodes)
                return made

    def _is_over(self, job: Object) -> bool:
        return "deletionTimestamp" in job["metadata"] or self._jobs.engine.state_of(job).has_ended

    def _error(self, name: str, job: Object | None, event: dict[str, Any]) -> AirsmithError | None:
        """Why the job has no output: what its pods and its engine say, now or before they went."""
        if event["outcome"] == "timeout" or (job is not None and self._has_succeeded(job)):
            return None
        told = [AirsmithError.from_json_line(event["error"])]
        kind = self._jobs.engine.RESOURCE.kind
        if job is None:
            message = f"{kind} {name} vanished: somebody or the cluster deleted it."
            told.append(AirsmithError(ErrorKind.POD_MISSING, message, _GOES_ON))
        else:
            told += [
                failure_of(self.stage, pod)
                for pod in self._jobs.pods(self._jobs.engine.pods_selector(job))
                if has_ended(pod) and not has_succeeded(pod)
            ]
            said = self._jobs.engine.state_of(job).message
            told += [AirsmithError.from_json_line(line) for line in said.splitlines()]
            if event["outcome"] == "not_started":
                message = f"Not all {self.nodes} pods of {kind} {name} have started in time."
                told.append(AirsmithError(ErrorKind.UNSCHEDULABLE, message, "See their events and the engine's log."))
            else:
                last = said.splitlines()[-1:] or ["nothing"]
                message = f"{kind} {name} has failed, and no pod is left to say why. It says: {last[0].rstrip('.')}."
                told.append(AirsmithError(ErrorKind.POD_MISSING, message, _GOES_ON))
        errors = [error for error in told if error is not None]
        return most_telling(errors[:-1]) or errors[-1]

    def _has_succeeded(self, job: Object) -> bool:
        return self._jobs.engine.state_of(job).phase is JobPhase.SUCCEEDED

    def _show_rest_of_log(self, job: Object, event: dict[str, Any]) -> None:
        for leader in self._jobs.pods(self._jobs.engine.leader_selector(job)):
            since = event["read_until"] if leader.metadata.uid == event["leader_uid"] else None
            show_rest(leader, self._jobs.engine.CONTAINER, since, self._jobs.client, self.log)

    def _show_last_word(self, run: Run) -> None:
        """Show what the leader has written down: its pod, and its log with it, may be gone."""
        told = run.statuses().get(self.stage)
        if told is not None and told.error:
            self.log.info("The training's own last word: %s %s", told.error, told.hint)

    def _longest_removal(self) -> float:
        return load_settings().kubernetes.termination_grace_seconds + self.startup_timeout_seconds

    @cached_property
    def _jobs(self) -> Jobs:
        client = KubernetesHook(conn_id=self.kubernetes_conn_id).get_conn()
        return Jobs(client, ENGINES[self.engine], self.namespace)
