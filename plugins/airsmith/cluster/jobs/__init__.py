"""Training on several nodes: the job kinds that start its pods, one of which the recipe chooses."""

from airsmith.cluster.jobs import jobset, rayjob, trainjob
from airsmith.cluster.jobs.job_kind import JobKind, JobPhase, JobState, Resource

__all__ = ["JOB_KINDS", "JobKind", "JobPhase", "JobState", "Resource"]

JOB_KINDS: dict[str, JobKind] = {"jobset": jobset, "trainjob": trainjob, "rayjob": rayjob}
"""Job kinds by the values of the recipe's `backend.job`."""
