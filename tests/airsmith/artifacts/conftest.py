"""Stores to test against."""

import pytest
from store_fixtures import real_s3_uri, s3_environment, s3_server, s3_store, s3_uri, store, store_uri

__all__ = ["real_s3_uri", "s3_environment", "s3_server", "s3_store", "s3_uri", "store", "store_uri"]


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what must fail: a store that is opened from here on does not try for long."""
    monkeypatch.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", "1")
