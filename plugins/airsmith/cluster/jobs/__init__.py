"""What starts the pods of a training on several nodes: one of three engines that a cluster may have."""

from airsmith.cluster.jobs import jobset, rayjob, trainjob
from airsmith.cluster.jobs.job_kind import Engine, JobPhase, JobState, Resource

__all__ = ["ENGINES", "Engine", "JobPhase", "JobState", "Resource"]

ENGINES: dict[str, Engine] = {"jobset": jobset, "trainjob": trainjob, "rayjob": rayjob}
"""By the recipe's `backend.job`."""
