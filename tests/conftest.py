"""For every suite: what a developer has exported for real deployments reaches no test."""

from __future__ import annotations

import os

pytest_plugins = ["tests.support.store_fixtures"]

for name in list(os.environ):
    if (name.startswith("AIRSMITH_") and not name.startswith("AIRSMITH_TEST_")) or name in ("HF_TOKEN", "HF_ENDPOINT"):
        del os.environ[name]
