"""Whatever happens on the line to S3: an artifact is published whole or not at all, and read as it was written.

Every fault strikes every operation in 30 ways. `make test` draws a twentieth, anew each time; AIRSMITH_TEST_LONG=1
takes all, and writes `results.json`. A failure names its seed, and AIRSMITH_TEST_SEED repeats that alone.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airsmith.artifacts.bucket import SMALLEST_PART_BYTES
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.artifacts.uploads import open_uploads
from airsmith.errors import AirsmithError, ErrorKind
from faults.faults import FAULTS
from faults.proxy import OPERATIONS, FaultyProxy, faulty_proxy
from faults.servers import BUCKET, any_s3_server

WAYS = 30
IS_LONG = os.environ.get("AIRSMITH_TEST_LONG") == "1"
GIVEN_SEED = os.environ.get("AIRSMITH_TEST_SEED")
FIRST_SEED = int(GIVEN_SEED or (0 if IS_LONG else random.SystemRandom().randrange(1 << 32)))
RESULTS = Path(__file__).with_name("results.json")

DEADLINE_SECONDS = "2"
MOST_REQUESTS = 250
"""Of one publication and its reading: about ten tries of each of some twenty requests."""
EXPECTED_KINDS = (ErrorKind.STORE_UNAVAILABLE, ErrorKind.VERIFICATION_FAILED)


@dataclass(frozen=True)
class Place:
    """A server, and the proxy before it.

    :param direct: the store past the proxy.
    :param spoilt: the store through it.
    """

    server: str
    proxy: FaultyProxy
    direct: Store
    spoilt: Store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with (
        pytest.MonkeyPatch.context() as environment,
        any_s3_server(tmp_path_factory.mktemp("s3")) as (port, server),
        faulty_proxy(port) as proxy,
    ):
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        direct = Store.open(f"s3://{BUCKET}")
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        environment.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", DEADLINE_SECONDS)
        spoilt = Store.open(f"s3://{BUCKET}")
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield Place(server, proxy, direct, spoilt)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Counter[str]]]:
    counted: dict[str, Counter[str]] = {}
    yield counted
    if IS_LONG:
        total = sum(counter.total() for counter in counted.values())
        found = {case: dict(sorted(counter.items())) for case, counter in sorted(counted.items())}
        RESULTS.write_text(json.dumps({"cases": total, **found}, indent=2) + "\n")


def seeds(case: str) -> list[int]:
    """Which of the ways are tried: all, a given one, or a twentieth of all cases together."""
    if GIVEN_SEED:
        return [FIRST_SEED]
    if IS_LONG:
        return list(range(WAYS))
    drawn = random.Random(f"{FIRST_SEED} {case}")
    number = WAYS // 20 + (drawn.random() < WAYS / 20 % 1)
    return [drawn.randrange(1 << 32) for _ in range(number)]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_artifact_is_published_whole_or_not_at_all(
    place: Place, outcomes: dict[str, Counter[str]], fault: str, operation: str
) -> None:
    if place.server == "moto" and fault == "flipped bit" and operation in ("put", "part"):
        pytest.skip("moto takes what it gets; S3 and MinIO hold it against the hash in the request's signature")
    case = f"{operation}, {fault}"
    counter = outcomes.setdefault(case, Counter())
    for seed in seeds(case):
        print(f"seed {seed}")
        counter[spoil(place, fault, operation, seed)] += 1


def spoil(place: Place, fault: str, operation: str, seed: int) -> str:
    """Publish and read back through a fault, and hold what is there against what was meant.

    :returns: what came of it.
    """
    chance = random.Random(f"{fault} {operation} {seed}")
    folder = f"artifacts/model/{chance.getrandbits(64):016x}"
    files = {
        "config.json": chance.randbytes(chance.randint(0, 2000)),
        "model.safetensors": chance.randbytes(SMALLEST_PART_BYTES + chance.randint(1, SMALLEST_PART_BYTES)),
    }
    times = math.inf if chance.random() < 1 / 6 else chance.randint(1, 3)
    place.proxy.plan(FAULTS[fault], operation, chance.randrange(3), times)
    what = f"seed {seed}: {operation}, {fault}"
    try:
        artifact = publish(place.spoilt, folder, files)
    except AirsmithError as failure:
        outcome = refused(failure, what)
    else:
        outcome = read_back(artifact, files, what)
    assert place.proxy.requests.total() <= MOST_REQUESTS, f"{what}: {place.proxy.requests}"
    place.proxy.plan(FAULTS[fault], operation, 0, 0)
    there = open_artifact(place.direct, folder)
    assert there is not None or outcome.startswith("refused"), f"{what}: nothing is there"
    if there is not None:
        assert {name: there.read(name) for name in there.names()} == files, (
            f"{what}: what is there is not what was meant"
        )
    assert not list(open_uploads(place.direct).list()), f"{what}: an upload is left"
    for info in place.direct.list(folder):
        place.direct.delete(info.path)
    return outcome


def publish(store: Store, folder: str, files: dict[str, bytes]) -> Artifact:
    with write_artifact(store, folder, type="model", digest="d", inputs={}, versions={}) as writer:
        for name, content in files.items():
            middle = len(content) // 2
            writer.add_stream(name, [content[:middle], content[middle:]], len(content))
        return writer.publish(properties={"meant": "this"})


def read_back(artifact: Artifact, files: dict[str, bytes], what: str) -> str:
    """Read everything as another stage does, through the same line."""
    try:
        found = open_artifact(artifact.store, artifact.folder)
        assert found is not None, f"{what}: what was published is not found"
        assert found.manifest == artifact.manifest, f"{what}: the manifest is another one"
        assert found.store.exists(found.path("model.safetensors")), f"{what}: a file is not found"
        content = {name: found.read(name) for name in found.names()}
    except AirsmithError as failure:
        return f"published, and to the reader {refused(failure, what)}"
    assert content == files, f"{what}: what was read is not what was written"
    return "published and read"


def refused(failure: AirsmithError, what: str) -> str:
    assert failure.kind in EXPECTED_KINDS, f"{what}: {failure.kind} {failure}"
    return f"refused: {failure.kind.value}"
