"""The versions of the libraries in an image."""

from __future__ import annotations

import json

from airsmith.contracts.stages import TOOLCHAIN, public_version
from scripts.images.builders import Builder

# Python imports the first match: the environment's distribution, before the base image's.
_ASK = """
import importlib.metadata, json
installed = {}
for found in importlib.metadata.distributions():
    installed.setdefault(found.name.lower().replace("_", "-"), found.version)
print(json.dumps(installed))
"""


def toolchain_of(builder: Builder, image: str) -> dict[str, str]:
    """Versions, as installed in the image, of the distributions that stage contracts name."""
    installed = json.loads(builder.run(image, ["python", "-c", _ASK]))
    return {name: public_version(installed[name]) for name in sorted(TOOLCHAIN) if name in installed}
