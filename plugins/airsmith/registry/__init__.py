"""Model versions, each model's champion, and endpoints. Imports neither airflow nor torch."""

from airsmith.registry.champion import get_champion, promote
from airsmith.registry.endpoints import (
    list_endpoints,
    read_endpoint,
    record_canary,
    record_current,
    record_replicas,
)
from airsmith.registry.records import Champion, Endpoint, ModelVersion, ModelVersionDraft, Revision, ServerProcess
from airsmith.registry.versions import (
    CARD_FILE,
    find_version_by_digest,
    get_version,
    list_versions,
    register_version,
)

__all__ = [
    "CARD_FILE",
    "Champion",
    "Endpoint",
    "ModelVersion",
    "ModelVersionDraft",
    "Revision",
    "ServerProcess",
    "find_version_by_digest",
    "get_champion",
    "get_version",
    "list_endpoints",
    "list_versions",
    "promote",
    "read_endpoint",
    "record_canary",
    "record_current",
    "record_replicas",
    "register_version",
]
