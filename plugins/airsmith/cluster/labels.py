"""What marks everything that Airsmith makes in a cluster: whose it is, for people, queries and the janitor."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "airsmith.dev/"
LONGEST_NAME = 63
_LONGEST_VALUE = 63


def pod_labels(**values: str) -> dict[str, str]:
    """Labels of one object: recipe, run, stage, digest, endpoint, version, team; empty values are left out."""
    return {PREFIX + name: label_value(value) for name, value in values.items() if value}


def label_value(text: str) -> str:
    """The text as a label's value: what Kubernetes does not allow becomes `-`, and a hash keeps long ones apart."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")
    if safe == text and len(safe) <= _LONGEST_VALUE:
        return safe
    hashed = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: _LONGEST_VALUE - 9].rstrip('-_.')}-{hashed}".lstrip("-")


def object_name(*parts: str, longest: int = LONGEST_NAME) -> str:
    """The parts as one name that is valid for pods and Services alike.

    :param longest: most characters.
    """
    text = "-".join(parts)
    safe = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if not safe[:1].isalpha():
        safe = f"a-{safe}"
    if len(safe) <= longest and safe == text:
        return safe
    hashed = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: longest - 9].rstrip('-')}-{hashed}"


@dataclass(frozen=True)
class TaskOwner:
    """The task that a pod works for.

    :param airflow: which Airflow it belongs to: several may share a namespace.
    """

    airflow: str
    dag_id: str
    run_id: str
    task_id: str

    def annotations(self) -> dict[str, str]:
        """What marks the task's pods; unlike labels, annotations take any text."""
        return {
            f"{PREFIX}airflow": self.airflow,
            f"{PREFIX}dag-id": self.dag_id,
            f"{PREFIX}run-id": self.run_id,
            f"{PREFIX}task-id": self.task_id,
        }

    @classmethod
    def of_annotations(cls, annotations: Mapping[str, str]) -> TaskOwner | None:
        """The owner of a pod, or None where it is not marked."""
        found = [annotations.get(f"{PREFIX}{name}") for name in ("airflow", "dag-id", "run-id", "task-id")]
        values = [value for value in found if value is not None]
        return cls(*values) if len(values) == len(found) else None
