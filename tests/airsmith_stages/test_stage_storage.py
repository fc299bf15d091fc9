"""How stages report a full disk and a store that is read-only or unreachable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from airsmith.artifacts.listing import listing_digest
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from demo.hub.faults import Refuse
from demo.hub.server import serve
from tests.support.data_stages import MODEL_ID, DataStages, assert_refused, paths_written
from tests.support.dataset_files import write_files
from tests.support.stage_runs import assert_store_is_consistent, contents, output_of

UNPRIVILEGED_USER = 65534
DATA_STAGES = ["mirror_model", "mirror_dataset", "tokenize"]
ReadyRun = Callable[[str], Run]
"""Creates a run in which a stage can start."""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small file system."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def folder_for_all_users() -> Iterator[Path]:
    """Create a folder that every user can access."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        shutil.rmtree(folder)


class TestFullDisk:
    @pytest.mark.parametrize("stage", DATA_STAGES)
    def test_a_store_with_a_file_size_limit(self, data_stages: DataStages, ready_run: ReadyRun, stage: str) -> None:
        """The limit has the effect of a full disk, without the permission to mount one."""
        run = ready_run(stage)
        with data_stages.serve_hub(stage) as hub:
            result = data_stages.run_command(stage, run, environment={"HF_ENDPOINT": hub.url}, max_file_bytes=8_000)
        assert_refused(result, run, stage, ErrorKind.DISK_FULL)

    def test_a_store_without_space_for_the_weights(
        self, data_stages: DataStages, ready_run: ReadyRun, base_model_files: dict[str, bytes]
    ) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, base_model_files)
        with small_disk(data_stages.folder / "disk", "1m") as disk, serve(data_stages.hub_root) as hub:
            run = data_stages.new_run(model={"revision": commit}, store=Store.open(f"file://{disk}/store"))
            result = data_stages.run_command("mirror_model", run, environment={"HF_ENDPOINT": hub.url})
            assert_refused(result, run, "mirror_model", ErrorKind.DISK_FULL, "model.safetensors", "AIRSMITH_STORE")

    @pytest.mark.parametrize("size", ["16k", "48k", "72k"])
    def test_scratch_without_space_for_inputs_or_cache(
        self, data_stages: DataStages, ready_run: ReadyRun, size: str
    ) -> None:
        run = ready_run("tokenize")
        with small_disk(data_stages.folder / "scratch", size) as scratch:
            result = data_stages.run_command("tokenize", run, environment={"AIRSMITH_SCRATCH": str(scratch)})
            assert_refused(result, run, "tokenize", ErrorKind.DISK_FULL, str(scratch))
            assert not list(scratch.iterdir())


class TestStore:
    @pytest.mark.parametrize("read_only", ["", "artifacts"])
    def test_a_read_only_store(
        self, data_stages: DataStages, base_model_files: dict[str, bytes], read_only: str
    ) -> None:
        """Either the whole store or its artifacts are read-only."""
        with folder_for_all_users() as source, folder_for_all_users() as folder:
            uri = f"file://{write_files(source, base_model_files)}"
            store = Store.open(f"file://{folder}")
            run = data_stages.new_run(model={"id": uri, "revision": listing_digest(uri)}, store=store)
            (folder / "artifacts").mkdir()
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o555 if read_only in path.parts or not read_only else 0o777)
            result = data_stages.run_command("mirror_model", run, user=UNPRIVILEGED_USER if os.geteuid() == 0 else None)
            assert result.error.kind is ErrorKind.ACCESS_DENIED, result.stderr
            assert str(folder / read_only) in str(result.error)
            assert not paths_written(run, "mirror_model")
            if read_only:
                assert run.statuses()["mirror_model"].error == result.error.message

    def test_a_store_that_becomes_unreachable(
        self, data_stages: DataStages, base_model_files: dict[str, bytes]
    ) -> None:
        """The store stops while the stage waits for the weights, and starts again."""
        from moto.server import ThreadedMotoServer

        commit = data_stages.publish_to_hub("model", MODEL_ID, base_model_files)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        s3 = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AIRSMITH_STORE_DEADLINE_SECONDS": "5",
        }  # fmt: skip
        with (
            pytest.MonkeyPatch.context() as patch,
            serve(data_stages.hub_root, Refuse("/_storage/*", retry_after_seconds=1)) as hub,
        ):
            for name, value in s3.items():
                patch.setenv(name, value)
            urlopen(Request(f"http://{host}:{port}/lost", method="PUT"))
            run = data_stages.new_run(model={"revision": commit}, store=Store.open("s3://lost/store"))
            command = [sys.executable, "-m", "airsmith_stages.cli", "mirror_model", "--run", run.uri]
            environment = {**s3, "HF_ENDPOINT": hub.url}
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            assert process.stderr is not None
            assert next(line for line in process.stderr if "retrying in 1 s" in line)
            server.stop()
            _, errors = process.communicate()
            error = AirsmithError.from_json_line(errors.splitlines()[-1])
            assert error is not None
            assert (process.returncode, error.kind) == (1, ErrorKind.STORE_UNAVAILABLE), errors

            server = ThreadedMotoServer(host, port, verbose=False)
            server.start()
            assert_store_is_consistent(run.store)
            assert run.pointer("mirror_model") is None
            result = data_stages.fork_server.run(command[3:], data_stages.folder, environment=environment)
            assert result.returncode == 0, result.stderr
            assert contents(output_of(run, "mirror_model")) == base_model_files
            server.stop()

    def test_an_unreachable_store(self, data_stages: DataStages) -> None:
        environment = {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret-key", "AIRSMITH_STORE_DEADLINE_SECONDS": "1",
        }  # fmt: skip
        command = ["mirror_model", "--run", "s3://bucket/runs/tests/run-1"]
        result = data_stages.fork_server.run(command, data_stages.folder, environment=environment)
        assert result.error.kind is ErrorKind.STORE_UNAVAILABLE
        assert "s3://bucket" in result.error.message
        assert "a-secret-key" not in result.stderr
