"""Which versions an image computes with."""

from __future__ import annotations

import json

from airsmith.contracts.stages import STAGES, public_version
from scripts.images.builders import Builder

_ASK = """
import importlib.metadata, json, sys
print(json.dumps({found.name.lower(): found.version for found in importlib.metadata.distributions()}))
"""


def toolchain_of(builder: Builder, image: str) -> dict[str, str]:
    """Versions of the distributions that some stage's contract names and the image holds, as the image itself tells."""
    declared = {name for contract in STAGES.values() for name in contract.toolchain}
    installed = json.loads(builder.run(image, ["python", "-c", _ASK]))
    return {name: public_version(installed[name]) for name in sorted(declared) if name in installed}
