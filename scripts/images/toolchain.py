"""Which versions an image computes with."""

from __future__ import annotations

import json

from airsmith.contracts.stages import TOOLCHAIN, public_version
from scripts.images.builders import Builder

# The first that Python finds is what it imports: an environment's own, before the same one of its base image.
_ASK = """
import importlib.metadata, json
installed = {}
for found in importlib.metadata.distributions():
    installed.setdefault(found.name.lower().replace("_", "-"), found.version)
print(json.dumps(installed))
"""


def toolchain_of(builder: Builder, image: str) -> dict[str, str]:
    """Versions of the distributions that some stage's contract names and the image holds, as the image itself tells."""
    installed = json.loads(builder.run(image, ["python", "-c", _ASK]))
    return {name: public_version(installed[name]) for name in sorted(TOOLCHAIN) if name in installed}
