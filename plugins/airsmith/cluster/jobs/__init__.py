"""What starts the pods of a training on several nodes: one of three job kinds that a cluster may have."""

from airsmith.cluster.jobs import jobset, rayjob, trainjob
from airsmith.cluster.jobs.job_kind import JobKind, JobPhase, JobState, Resource

__all__ = ["JOB_KINDS", "JobKind", "JobPhase", "JobState", "Resource"]

JOB_KINDS: dict[str, JobKind] = {"jobset": jobset, "trainjob": trainjob, "rayjob": rayjob}
"""By the recipe's `backend.job`."""
