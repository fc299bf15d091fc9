"""Model versions, the champion among them, and endpoints. Imports neither airflow nor torch."""

from airsmith.registry.champion import get_champion, promote
from airsmith.registry.endpoints import (
    list_endpoints,
    read_endpoint,
    resize_endpoint,
    share_endpoint,
    swap_endpoint,
)
from airsmith.registry.records import Champion, Deployment, Endpoint, ModelVersion, ModelVersionDraft, ServerProcess
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
    "Deployment",
    "Endpoint",
    "ModelVersion",
    "ModelVersionDraft",
    "ServerProcess",
    "find_version_by_digest",
    "get_champion",
    "get_version",
    "list_endpoints",
    "list_versions",
    "promote",
    "read_endpoint",
    "register_version",
    "resize_endpoint",
    "share_endpoint",
    "swap_endpoint",
]
