"""Reads a quota's rejection: is the quota exhausted at the moment, or too small for the pod?"""

from __future__ import annotations

import re
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

_EXCEEDED = re.compile(r'requested: (?P<requested>[^ ]+), used: [^ ]+, limited: (?P<limited>[^ "]+)')


def is_ever_within(refusal: str) -> bool:
    """Whether the quota admits the pod after other pods have finished.

    The API server says `exceeded quota: name, requested: a=1,b=2, used: a=0,b=7, limited: a=4,b=8`.
    """
    found = _EXCEEDED.search(refusal)
    if found is None:
        return False
    requested, limited = _quantities(found["requested"]), _quantities(found["limited"])
    return all(amount <= limited.get(resource, Decimal(0)) for resource, amount in requested.items())


def _quantities(text: str) -> dict[str, Decimal]:
    pairs = (pair.partition("=") for pair in text.split(","))
    return {resource: parse_quantity(amount) for resource, _, amount in pairs}
