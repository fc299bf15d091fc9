"""If several writers publish the same artifact at once, one wins, all use its artifact, and nothing else remains.

200 races of 2 to 16 writers, half on S3 and half in a local folder; `make test` runs a twentieth.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from tests.support.s3_servers import BUCKET, run_s3_server

RACES = 200
IS_LONG = os.environ.get("AIRSMITH_TEST_LONG") == "1"
GIVEN_SEED = os.environ.get("AIRSMITH_TEST_SEED")


@pytest.fixture(scope="module")
def s3_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment, run_s3_server(tmp_path_factory.mktemp("s3")) as (port, _):
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield f"s3://{BUCKET}"


@pytest.mark.parametrize("store_type", ["s3", "folder"])
def test_one_writer_wins_and_all_use_its_artifact(store_type: str, s3_uri: str, tmp_path: Path) -> None:
    uri = s3_uri if store_type == "s3" else f"file://{tmp_path}"
    first = int(GIVEN_SEED or (0 if IS_LONG else random.SystemRandom().randrange(1 << 32)))
    races = 1 if GIVEN_SEED else RACES // 2 // (1 if IS_LONG else 20)
    print(f"seeds {first} to {first + races - 1}")
    for seed in range(first, first + races):
        race(uri, seed)


def race(uri: str, seed: int) -> None:
    """Let writers publish different contents at the same time."""
    chance = random.Random(seed)
    writers, folder = chance.randint(2, 16), f"artifacts/model/{chance.getrandbits(64):016x}"
    contents = [chance.randbytes(chance.randint(1, 4000)) for _ in range(writers)]
    barrier = Barrier(writers)

    def write(content: bytes) -> Artifact:
        store = Store.open(uri)
        with write_artifact(store, folder, type="model", digest="d", inputs={}, versions={}) as writer:
            writer.add_bytes("weights", content)
            barrier.wait()
            return writer.publish()

    with ThreadPoolExecutor(writers) as pool:
        published = list(pool.map(write, contents))
    store = Store.open(uri)
    stored = open_artifact(store, folder)
    assert stored is not None
    assert all(artifact.manifest == stored.manifest for artifact in published), f"seed {seed}: more than one won"
    assert stored.read("weights") in contents, f"seed {seed}"
    left = {info.path for info in store.list(folder)}
    assert left == {f"{folder}/manifest.json", stored.path("weights")}, f"seed {seed}: {left}"
