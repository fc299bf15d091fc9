"""With any fault on the connection to S3, an artifact is published whole or not at all, and reads as it was written.

Each fault is injected into each operation in 30 cases. `make test` runs a random twentieth of them;
AIRSMITH_TEST_LONG=1 runs all and writes `results.json`. A failure reports its seed; AIRSMITH_TEST_SEED reruns only that
seed.
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

from airsmith.artifacts.bucket import MIN_PART_BYTES
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.artifacts.uploads import open_uploads
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.faulty_proxy import OPERATIONS, FaultyProxy, faulty_proxy
from tests.support.proxy_faults import FAULTS
from tests.support.s3_servers import BUCKET, run_s3_server

CASES = 30
IS_LONG = os.environ.get("AIRSMITH_TEST_LONG") == "1"
GIVEN_SEED = os.environ.get("AIRSMITH_TEST_SEED")
FIRST_SEED = int(GIVEN_SEED or (0 if IS_LONG else random.SystemRandom().randrange(1 << 32)))
RESULTS = Path(__file__).with_name("results.json")

DEADLINE_SECONDS = "2"
MAX_REQUESTS = 250
"""Of publishing and reading one artifact: about 10 attempts of each of about 20 requests."""
EXPECTED_KINDS = (ErrorKind.STORE_UNAVAILABLE, ErrorKind.VERIFICATION_FAILED)


@dataclass(frozen=True)
class Stores:
    """One bucket, with and without the faulty proxy in front of it.

    :param server: `MinIO` or `moto`.
    :param direct: the store without the proxy.
    :param proxied: the store through the proxy.
    """

    server: str
    proxy: FaultyProxy
    direct: Store
    proxied: Store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with (
        pytest.MonkeyPatch.context() as environment,
        run_s3_server(tmp_path_factory.mktemp("s3")) as (port, server),
        faulty_proxy(port) as proxy,
    ):
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        direct = Store.open(f"s3://{BUCKET}")
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        environment.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", DEADLINE_SECONDS)
        proxied = Store.open(f"s3://{BUCKET}")
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield Stores(server, proxy, direct, proxied)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Counter[str]]]:
    counted: dict[str, Counter[str]] = {}
    yield counted
    if IS_LONG:
        total = sum(counter.total() for counter in counted.values())
        found = {case: dict(sorted(counter.items())) for case, counter in sorted(counted.items())}
        RESULTS.write_text(json.dumps({"cases": total, **found}, indent=2) + "\n")


def seeds(case: str) -> list[int]:
    """The seeds to run: all, the given one, or on average a twentieth over all test cases."""
    if GIVEN_SEED:
        return [FIRST_SEED]
    if IS_LONG:
        return list(range(CASES))
    drawn = random.Random(f"{FIRST_SEED} {case}")
    number = CASES // 20 + (drawn.random() < CASES / 20 % 1)
    return [drawn.randrange(1 << 32) for _ in range(number)]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_artifact_is_published_whole_or_not_at_all(
    stores: Stores, outcomes: dict[str, Counter[str]], fault: str, operation: str
) -> None:
    if stores.server == "moto" and fault == "flipped bit" and operation in ("put", "part"):
        pytest.skip("moto does not verify the body; S3 and MinIO verify it against the signed content hash")
    case = f"{operation}, {fault}"
    counter = outcomes.setdefault(case, Counter())
    for seed in seeds(case):
        print(f"seed {seed}")
        counter[publish_with_fault(stores, fault, operation, seed)] += 1


def publish_with_fault(stores: Stores, fault: str, operation: str, seed: int) -> str:
    """Publish and read an artifact with a fault, and compare the store's content with the intended one.

    :returns: the outcome, as counted in `results.json`.
    """
    chance = random.Random(f"{fault} {operation} {seed}")
    folder = f"artifacts/model/{chance.getrandbits(64):016x}"
    files = {
        "config.json": chance.randbytes(chance.randint(0, 2000)),
        "model.safetensors": chance.randbytes(MIN_PART_BYTES + chance.randint(1, MIN_PART_BYTES)),
    }
    times = math.inf if chance.random() < 1 / 6 else chance.randint(1, 3)
    stores.proxy.inject(FAULTS[fault], operation, after=chance.randrange(3), times=times)
    case = f"seed {seed}: {operation}, {fault}"
    try:
        artifact = publish(stores.proxied, folder, files)
    except AirsmithError as failure:
        outcome = f"publish failed: {expected_kind(failure, case)}"
    else:
        outcome = read_back(artifact, files, case)
    assert stores.proxy.requests.total() <= MAX_REQUESTS, f"{case}: {stores.proxy.requests}"
    stores.proxy.inject(FAULTS[fault], operation, times=0)
    stored = open_artifact(stores.direct, folder)
    assert stored is not None or outcome.startswith("publish failed"), f"{case}: the artifact is missing"
    if stored is not None:
        assert {name: stored.read(name) for name in stored.names()} == files, f"{case}: the artifact's files differ"
    assert not list(open_uploads(stores.direct).list()), f"{case}: an upload is left"
    for info in stores.direct.list(folder):
        stores.direct.delete(info.path)
    return outcome


def publish(store: Store, folder: str, files: dict[str, bytes]) -> Artifact:
    with write_artifact(store, folder, type="model", digest="d", inputs={}, versions={}) as writer:
        for name, content in files.items():
            middle = len(content) // 2
            writer.add_stream(name, [content[:middle], content[middle:]], len(content))
        return writer.publish(properties={"name": "value"})


def read_back(artifact: Artifact, files: dict[str, bytes], case: str) -> str:
    """Read all files as another stage does, through the same proxy."""
    try:
        found = open_artifact(artifact.store, artifact.folder)
        assert found is not None, f"{case}: the published artifact is not found"
        assert found.manifest == artifact.manifest, f"{case}: the manifest differs"
        assert found.store.exists(found.path("model.safetensors")), f"{case}: a file is not found"
        content = {name: found.read(name) for name in found.names()}
    except AirsmithError as failure:
        return f"published, read failed: {expected_kind(failure, case)}"
    assert content == files, f"{case}: the content differs"
    return "published and read"


def expected_kind(failure: AirsmithError, case: str) -> str:
    assert failure.kind in EXPECTED_KINDS, f"{case}: {failure.kind} {failure}"
    return failure.kind.value
