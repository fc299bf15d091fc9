"""A quota's refusal, read: is the quota used up for now, or too small for the pod at all?"""

from __future__ import annotations

import re
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

_EXCEEDED = re.compile(r'requested: (?P<requested>[^ ]+), used: [^ ]+, limited: (?P<limited>[^ "]+)')


def is_ever_within(refusal: str) -> bool:
    """Whether the refusal speaks of a quota that has room for the pod once others have ended.

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
