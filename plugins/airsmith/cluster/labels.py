"""Labels, annotations and names of everything that Airsmith creates in a cluster."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "airsmith.dev/"
MAX_NAME_LENGTH = 63
_MAX_VALUE_LENGTH = 63


def pod_labels(**values: str) -> dict[str, str]:
    """Labels of one object: recipe, run, stage, digest, endpoint, version, team. Empty values are omitted."""
    return {PREFIX + name: label_value(value) for name, value in values.items() if value}


def label_value(text: str) -> str:
    """The text as a label's value: invalid characters become `-`, and a hash makes a changed value unique."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")
    if safe == text and len(safe) <= _MAX_VALUE_LENGTH:
        return safe
    hashed = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: _MAX_VALUE_LENGTH - 9].rstrip('-_.')}-{hashed}".lstrip("-")


def object_name(*parts: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Join the parts into one name that is valid for pods and Services.

    :param max_length: maximum number of characters.
    """
    text = "-".join(parts)
    safe = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if not safe[:1].isalpha():
        safe = f"a-{safe}"
    if len(safe) <= max_length and safe == text:
        return safe
    hashed = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: max_length - 9].rstrip('-')}-{hashed}"


@dataclass(frozen=True)
class TaskOwner:
    """The Airflow task that created a pod.

    :param airflow: identifies the Airflow installation; several may share a namespace.
    """

    airflow: str
    dag_id: str
    run_id: str
    task_id: str

    def annotations(self) -> dict[str, str]:
        """Annotations of the task's pods; unlike labels, they accept any text."""
        return {
            f"{PREFIX}airflow": self.airflow,
            f"{PREFIX}dag-id": self.dag_id,
            f"{PREFIX}run-id": self.run_id,
            f"{PREFIX}task-id": self.task_id,
        }

    @classmethod
    def of_annotations(cls, annotations: Mapping[str, str]) -> TaskOwner | None:
        """The owner of a pod, or None if it has no such annotations."""
        found = [annotations.get(f"{PREFIX}{name}") for name in ("airflow", "dag-id", "run-id", "task-id")]
        values = [value for value in found if value is not None]
        return cls(*values) if len(values) == len(found) else None
