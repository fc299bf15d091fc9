"""What holds around every stage: exit codes, last words, status files, and that no end leaves anything half done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from airsmith.artifacts.listing import listing_digest
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith_stages import failures
from airsmith_stages.failures import as_airsmith_error
from demo.hub.faults import Refuse
from demo.hub.server import Hub, serve
from tests.support import chat_tokenizers
from tests.support.data_stages import DATASET_ID, MODEL_ID, DataStages, assert_refused
from tests.support.dataset_files import chats, read_files, write_files
from tests.support.stage_commands import SignalAtCall
from tests.support.stage_runs import assert_store_is_consistent, contents, output_of

NOBODY = 65534
STAGES_OF_DATA = ["mirror_model", "mirror_dataset", "tokenize"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A base model with a tokenizer and about 3 MB of weights."""
    folder = tmp_path_factory.mktemp("tokenizer")
    chat_tokenizers.chatml_tokenizer().save_pretrained(folder)
    weights = bytes(range(256)) * 12_000
    return {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights, **read_files(folder)}


DATASET = {
    "train.jsonl": chats((f"The kettle {number} is cold.", "x" * 40) for number in range(200)),
    "validation.jsonl": chats([("Where is my bill?", "billing")]),
}


@pytest.fixture
def ready(data_stages: DataStages, model: dict[str, bytes]) -> Callable[[str], Run]:
    """A new run in which one stage can begin. The Hub that a mirror asks has to be served."""

    def prepare(stage: str) -> Run:
        if stage == "tokenize":
            run = data_stages.new_run(dataset={"max_length": 64})
            data_stages.publish_output(run, "mirror_model", model)
            data_stages.publish_output(run, "mirror_dataset", DATASET)
            return run
        return data_stages.new_run(
            model={"revision": data_stages.publish_to_hub("model", MODEL_ID, model)},
            dataset={"revision": data_stages.publish_to_hub("dataset", DATASET_ID, DATASET)},
        )

    return prepare


def served(data_stages: DataStages, stage: str) -> AbstractContextManager[Any]:
    return nullcontext(Hub("http://127.0.0.1:9")) if stage == "tokenize" else serve(data_stages.hub_root)


def made(run: Run, stage: str) -> list[str]:
    """Everything that lies where the stage publishes, but for what its inputs hold."""
    return [info.path for info in run.store.list(f"artifacts/{STAGES[stage].output}")]


class TestLastWords:
    @pytest.mark.parametrize(
        ("failure", "kind", "words"),
        [
            (AirsmithError(ErrorKind.BAD_DATA, "Row 3 is odd.", "Mend it."), ErrorKind.BAD_DATA, "Row 3"),
            (MemoryError(), ErrorKind.OUT_OF_MEMORY, "memory"),
            (RuntimeError("CUDA out of memory. Tried"), ErrorKind.OUT_OF_MEMORY, "CUDA"),
            (OSError(errno.ENOSPC, "No space left on device"), ErrorKind.DISK_FULL, "No space"),
            (OSError(errno.EFBIG, "File too large"), ErrorKind.DISK_FULL, "too large"),
            (OSError("Not enough disk space. Needed: 3 GiB"), ErrorKind.DISK_FULL, "3 GiB"),
            (ValueError("I/O error: No space left on device (os error 28)"), ErrorKind.DISK_FULL, "No space"),
            (OSError(errno.ENOENT, "No such file"), ErrorKind.INTERNAL, "FileNotFoundError"),
            (ValueError("(os error 2)"), ErrorKind.INTERNAL, "ValueError"),
            (failures.StopRequested(), ErrorKind.INTERRUPTED, "SIGTERM"),
            (KeyboardInterrupt(), ErrorKind.INTERRUPTED, "keyboard"),
            (KeyError("x"), ErrorKind.INTERNAL, "KeyError"),
        ],
    )
    def test_every_failure_is_of_the_closed_list(self, failure: BaseException, kind: ErrorKind, words: str) -> None:
        error = as_airsmith_error(failure)
        assert error.kind is kind
        assert words in error.message
        assert error.hint

    def test_what_has_caused_a_failure_decides_its_kind(self) -> None:
        failure = RuntimeError("could not write the cache")
        failure.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(AirsmithError, match="No space left") as told, failures.stage_errors():
            raise failure
        assert told.value.kind is ErrorKind.DISK_FULL

    def test_a_crash_ends_with_its_line_behind_the_traceback(self) -> None:
        code = (
            "import sys; from airsmith_stages.failures import exit_code_of\n"
            "def work(): print('out'); raise KeyError('lost')\n"
            "sys.exit(exit_code_of(work))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        *before, last = result.stderr.splitlines()
        assert json.loads(last) == {
            "error": "internal",
            "message": "KeyError: 'lost'",
            "hint": "See the traceback in the log.",
        }
        assert "Traceback" in before[0]
        assert result.stdout == "out\n"

    def test_a_pod_shows_it_as_the_reason_of_its_end(self, tmp_path: Path) -> None:
        reason = tmp_path / "termination-log"
        reason.touch()
        code = (
            "import sys; from pathlib import Path; from airsmith_stages import failures\n"
            "failures.TERMINATION_LOG = Path(sys.argv[1])\n"
            "def work(): raise OSError(28, 'No space left on device')\n"
            "sys.exit(failures.exit_code_of(work))"
        )
        result = subprocess.run([sys.executable, "-c", code, str(reason)], capture_output=True, text=True, check=False)
        assert reason.read_text() == result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize("uri", ["file:///nowhere", "nonsense"])
    def test_what_is_no_run_is_said(self, data_stages: DataStages, uri: str) -> None:
        error = data_stages.fork_server.run(["tokenize", "--run", uri], data_stages.folder).error
        assert error.kind is ErrorKind.NOT_FOUND
        assert uri in error.message

    def test_a_run_without_a_spec_is_said(self, data_stages: DataStages) -> None:
        error = data_stages.run_command("tokenize", Run(data_stages.store, "runs/tests/unresolved")).error
        assert error.kind is ErrorKind.NOT_FOUND
        assert "spec.json" in error.message

    def test_a_stage_that_does_not_exist_is_a_wrong_command(self, data_stages: DataStages) -> None:
        command = [sys.executable, "-m", "airsmith_stages.cli", "polish", "--run", "file:///store/runs/a/b"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "polish" in result.stderr


class TestInputs:
    def test_a_stage_before_its_input_names_what_has_to_run(self, data_stages: DataStages) -> None:
        run = data_stages.new_run()
        assert_refused(data_stages.run_command("tokenize", run), run, "tokenize", ErrorKind.NOT_FOUND, "mirror_model")

    def test_an_input_that_was_removed_names_what_has_to_be_cleared(self, data_stages: DataStages, ready: Any) -> None:
        run = ready("tokenize")
        data_stages.store.delete(f"{output_of(run, 'mirror_dataset').folder}/manifest.json")
        result = data_stages.run_command("tokenize", run)
        assert_refused(result, run, "tokenize", ErrorKind.NOT_FOUND, "mirror_dataset", "Clear")

    def test_other_versions_than_planned_are_refused(self, data_stages: DataStages, ready: Any) -> None:
        run = ready("tokenize")
        spec = run.read_spec()
        image = spec.plan.stage("tokenize").image
        planned = {image: {**spec.toolchains[image], "transformers": "4.0.0"}}
        run.write_spec(spec.model_copy(update={"toolchains": planned}))
        error = data_stages.run_command("tokenize", run).error
        assert "transformers 4.0.0" in error.message
        assert not made(run, "tokenize")


@pytest.mark.parametrize("stage", STAGES_OF_DATA)
class TestKilled:
    MOMENTS = 5

    def test_at_any_moment_it_leaves_nothing_half_done_and_goes_through_the_next_time(
        self, data_stages: DataStages, ready: Any, stage: str
    ) -> None:
        """Moments between the first call into the store and the last."""
        with served(data_stages, stage) as hub:
            whole = ready(stage)
            environment = {"HF_ENDPOINT": hub.url}
            calls = data_stages.run_command(
                stage, whole, environment=environment, signal_at=SignalAtCall(call=-1)
            ).calls
            assert calls > 50
            expected = contents(output_of(whole, stage))
            kills = 0
            # The last calls publish the manifest, the pointer and the status.
            for moment in [*range(1, calls, calls // self.MOMENTS), *range(calls - 60, calls, 12)]:
                shutil.rmtree(data_stages.folder / "store")
                run = ready(stage)
                result = data_stages.run_command(
                    stage, run, environment=environment, signal_at=SignalAtCall(call=moment)
                )
                # Copies run side by side, so that another time fewer calls may do.
                assert result.returncode in (-signal.SIGKILL, 0), (moment, calls, result.stderr)
                kills += result.returncode != 0
                assert_store_is_consistent(run.store)
                assert data_stages.run_command(stage, run, environment=environment).code == 0
                assert contents(output_of(run, stage)) == expected
                assert run.statuses()[stage].state in ("done", "cached")
            assert kills >= self.MOMENTS

    def test_told_to_stop_it_says_so_and_leaves_whole_files_at_most(
        self, data_stages: DataStages, ready: Any, stage: str
    ) -> None:
        """A mirror's next attempt takes the files that are whole; all else is taken away."""
        with served(data_stages, stage) as hub:
            environment = {"HF_ENDPOINT": hub.url}
            whole = ready(stage)
            calls = data_stages.run_command(
                stage, whole, environment=environment, signal_at=SignalAtCall(call=-1)
            ).calls
            expected = contents(output_of(whole, stage)) if stage.startswith("mirror") else {}
            for moment in range(calls // 4, calls - calls // 4, calls // 5):
                shutil.rmtree(data_stages.folder / "store")
                run = ready(stage)
                signal_at = SignalAtCall(call=moment, signum=signal.SIGTERM)
                result = data_stages.run_command(stage, run, environment=environment, signal_at=signal_at)
                assert result.error.kind is ErrorKind.INTERRUPTED, result.stderr
                assert run.statuses()[stage].state == "interrupted"
                assert run.statuses()[stage].error == result.error.message
                for path in made(run, stage):
                    _, _, _, attempt, name = path.split("/", 4)
                    assert attempt.startswith("attempt=")
                    assert run.store.read(path) == expected[name]


@pytest.mark.parametrize(
    "package", ["/datasets/load.py", "/datasets/builder.py", "/datasets/arrow_", "chat_template_utils.py"]
)
def test_no_library_takes_the_word_to_stop_for_a_failure_of_its_own(
    data_stages: DataStages, ready: Any, package: str
) -> None:
    run = ready("tokenize")
    result = data_stages.run_command(
        "tokenize", run, signal_at=SignalAtCall(call=5, signum=signal.SIGTERM, package=package)
    )
    assert result.error.kind is ErrorKind.INTERRUPTED, result.stderr
    assert run.statuses()["tokenize"].state == "interrupted"


def test_the_real_command_stops_at_once_while_it_waits_for_the_hub(data_stages: DataStages, ready: Any) -> None:
    """The weights are to come in a minute: first it is told to stop, then killed, then left to finish."""
    run = ready("mirror_model")
    command = [sys.executable, "-m", "airsmith_stages.cli", "mirror_model", "--run", run.uri]

    def waiting(hub: Hub) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"HF_ENDPOINT": hub.url})
        assert process.stderr is not None
        line = next(line for line in process.stderr if "model.safetensors" in line)
        assert "retrying in 60 s" in line
        wait_for(lambda: any("config.json" in path for path in made(run, "mirror_model")), process)
        return process

    with serve(data_stages.hub_root, Refuse("/_storage/*", times=2, status=500, retry_after_seconds=60)) as hub:
        process = waiting(hub)
        process.terminate()
        _, errors = process.communicate()
        error = AirsmithError.from_json_line(errors.splitlines()[-1])
        assert error is not None
        assert (process.returncode, error.kind) == (1, ErrorKind.INTERRUPTED)
        assert not made(run, "mirror_model")

        process = waiting(hub)
        process.kill()
        process.communicate()
        assert made(run, "mirror_model")
        assert_store_is_consistent(run.store)
        assert run.pointer("mirror_model") is None

        assert subprocess.run(command, capture_output=True, env={"HF_ENDPOINT": hub.url}, check=False).returncode == 0
    assert contents(output_of(run, "mirror_model")).keys() >= {"model.safetensors", "config.json"}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system with little room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def others_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        shutil.rmtree(folder)


class TestFullDisk:
    @pytest.mark.parametrize("stage", STAGES_OF_DATA)
    def test_a_store_that_takes_no_large_file(self, data_stages: DataStages, ready: Any, stage: str) -> None:
        """The same as a full disk, for whoever cannot mount one."""
        run = ready(stage)
        with served(data_stages, stage) as hub:
            result = data_stages.run_command(stage, run, environment={"HF_ENDPOINT": hub.url}, max_file_bytes=8_000)
        assert_refused(result, run, stage, ErrorKind.DISK_FULL)

    def test_a_store_without_room_for_the_weights(
        self, data_stages: DataStages, ready: Any, model: dict[str, bytes]
    ) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, model)
        with small_disk(data_stages.folder / "disk", "1m") as disk, serve(data_stages.hub_root) as hub:
            run = data_stages.new_run(model={"revision": commit}, store=Store.open(f"file://{disk}/store"))
            result = data_stages.run_command("mirror_model", run, environment={"HF_ENDPOINT": hub.url})
            assert_refused(result, run, "mirror_model", ErrorKind.DISK_FULL, "model.safetensors", "AIRSMITH_STORE")

    @pytest.mark.parametrize("size", ["16k", "48k", "72k"])
    def test_scratch_without_room_for_inputs_or_cache(self, data_stages: DataStages, ready: Any, size: str) -> None:
        run = ready("tokenize")
        with small_disk(data_stages.folder / "scratch", size) as scratch:
            result = data_stages.run_command("tokenize", run, environment={"AIRSMITH_SCRATCH": str(scratch)})
            assert_refused(result, run, "tokenize", ErrorKind.DISK_FULL, str(scratch))
            assert not list(scratch.iterdir())


class TestStore:
    @pytest.mark.parametrize("read_only", ["", "artifacts"])
    def test_that_is_read_only(self, data_stages: DataStages, model: dict[str, bytes], read_only: str) -> None:
        """All of it, or the part that artifacts go to."""
        with others_folder() as source, others_folder() as folder:
            uri = f"file://{write_files(source, model)}"
            store = Store.open(f"file://{folder}")
            run = data_stages.new_run(model={"id": uri, "revision": listing_digest(uri)}, store=store)
            (folder / "artifacts").mkdir()
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o555 if read_only in path.parts or not read_only else 0o777)
            result = data_stages.run_command("mirror_model", run, user=NOBODY if os.geteuid() == 0 else None)
            assert result.error.kind is ErrorKind.ACCESS_DENIED, result.stderr
            assert str(folder / read_only) in str(result.error)
            assert not made(run, "mirror_model")
            if read_only:
                assert run.statuses()["mirror_model"].error == result.error.message

    def test_that_is_lost_midway(self, data_stages: DataStages, model: dict[str, bytes]) -> None:
        """It goes away while the weights are waited for, and comes back."""
        from moto.server import ThreadedMotoServer

        commit = data_stages.publish_to_hub("model", MODEL_ID, model)
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
            assert contents(output_of(run, "mirror_model")) == model
            server.stop()

    def test_that_is_not_reached(self, data_stages: DataStages) -> None:
        environment = {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret-key", "AIRSMITH_STORE_DEADLINE_SECONDS": "1",
        }  # fmt: skip
        command = ["mirror_model", "--run", "s3://bucket/runs/tests/run-1"]
        result = data_stages.fork_server.run(command, data_stages.folder, environment=environment)
        assert result.error.kind is ErrorKind.STORE_UNAVAILABLE
        assert "s3://bucket" in result.error.message
        assert "a-secret-key" not in result.stderr


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
