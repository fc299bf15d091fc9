"""What holds for every stage: its inputs, its status, and a consistent store after any signal."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from demo.hub.faults import Refuse
from demo.hub.server import Hub, serve
from tests.support.data_stages import DataStages, assert_refused, paths_written
from tests.support.processes import wait_for
from tests.support.stage_commands import SignalAtCall
from tests.support.stage_runs import assert_store_is_consistent, contents, output_of

DATA_STAGES = ["mirror_model", "mirror_dataset", "tokenize"]
ReadyRun = Callable[[str], Run]
"""Creates a run in which a stage can start."""


class TestInputs:
    def test_a_missing_input_is_reported_with_the_stage_that_creates_it(self, data_stages: DataStages) -> None:
        run = data_stages.new_run()
        assert_refused(data_stages.run_command("tokenize", run), run, "tokenize", ErrorKind.NOT_FOUND, "mirror_model")

    def test_a_deleted_input_is_reported_with_the_task_to_clear(
        self, data_stages: DataStages, ready_run: ReadyRun
    ) -> None:
        run = ready_run("tokenize")
        data_stages.store.delete(f"{output_of(run, 'mirror_dataset').folder}/manifest.json")
        result = data_stages.run_command("tokenize", run)
        assert_refused(result, run, "tokenize", ErrorKind.NOT_FOUND, "mirror_dataset", "Clear")

    def test_package_versions_other_than_planned_are_refused(
        self, data_stages: DataStages, ready_run: ReadyRun
    ) -> None:
        run = ready_run("tokenize")
        spec = run.read_spec()
        image = spec.plan.stage("tokenize").image
        planned = {image: {**spec.toolchains[image], "transformers": "4.0.0"}}
        run.write_spec(spec.model_copy(update={"toolchains": planned}))
        error = data_stages.run_command("tokenize", run).error
        assert "transformers 4.0.0" in error.message
        assert not paths_written(run, "tokenize")


@pytest.mark.parametrize("stage", DATA_STAGES)
class TestSignals:
    KILLS = 5

    def test_a_kill_leaves_a_consistent_store_and_the_next_attempt_succeeds(
        self, data_stages: DataStages, ready_run: ReadyRun, stage: str
    ) -> None:
        """The kills are spread over the calls into the store."""
        with data_stages.serve_hub(stage) as hub:
            whole = ready_run(stage)
            environment = {"HF_ENDPOINT": hub.url}
            calls = data_stages.run_command(
                stage, whole, environment=environment, signal_at=SignalAtCall(call=-1)
            ).calls
            assert calls > 50
            expected = contents(output_of(whole, stage))
            kills = 0
            # The last calls publish the manifest, the pointer and the status.
            for call in [*range(1, calls, calls // self.KILLS), *range(calls - 60, calls, 12)]:
                shutil.rmtree(data_stages.folder / "store")
                run = ready_run(stage)
                result = data_stages.run_command(stage, run, environment=environment, signal_at=SignalAtCall(call=call))
                # Copies run concurrently, so that the number of calls varies.
                assert result.returncode in (-signal.SIGKILL, 0), (call, calls, result.stderr)
                kills += result.returncode != 0
                assert_store_is_consistent(run.store)
                assert data_stages.run_command(stage, run, environment=environment).returncode == 0
                assert contents(output_of(run, stage)) == expected
                assert run.statuses()[stage].state in ("done", "cached")
            assert kills >= self.KILLS

    def test_sigterm_is_reported_and_leaves_only_complete_files(
        self, data_stages: DataStages, ready_run: ReadyRun, stage: str
    ) -> None:
        """Complete files of a mirror are kept for its next attempt; all else is removed."""
        with data_stages.serve_hub(stage) as hub:
            environment = {"HF_ENDPOINT": hub.url}
            whole = ready_run(stage)
            calls = data_stages.run_command(
                stage, whole, environment=environment, signal_at=SignalAtCall(call=-1)
            ).calls
            expected = contents(output_of(whole, stage)) if stage.startswith("mirror") else {}
            for call in range(calls // 4, calls - calls // 4, calls // 5):
                shutil.rmtree(data_stages.folder / "store")
                run = ready_run(stage)
                signal_at = SignalAtCall(call=call, signum=signal.SIGTERM)
                result = data_stages.run_command(stage, run, environment=environment, signal_at=signal_at)
                assert result.error.kind is ErrorKind.INTERRUPTED, result.stderr
                assert run.statuses()[stage].state == "interrupted"
                assert run.statuses()[stage].error == result.error.message
                for path in paths_written(run, stage):
                    _, _, _, attempt, name = path.split("/", 4)
                    assert attempt.startswith("attempt=")
                    assert run.store.read(path) == expected[name]


@pytest.mark.parametrize(
    "package", ["/datasets/load.py", "/datasets/builder.py", "/datasets/arrow_", "chat_template_utils.py"]
)
def test_sigterm_inside_a_library_stops_the_stage(data_stages: DataStages, ready_run: ReadyRun, package: str) -> None:
    run = ready_run("tokenize")
    result = data_stages.run_command(
        "tokenize", run, signal_at=SignalAtCall(call=5, signum=signal.SIGTERM, package=package)
    )
    assert result.error.kind is ErrorKind.INTERRUPTED, result.stderr
    assert run.statuses()["tokenize"].state == "interrupted"


def test_sigterm_stops_the_command_at_once_while_it_waits_for_the_hub(
    data_stages: DataStages, ready_run: ReadyRun
) -> None:
    """The Hub delays the weights by a minute; the command gets SIGTERM, then SIGKILL, then completes."""
    run = ready_run("mirror_model")
    command = [sys.executable, "-m", "airsmith_stages.cli", "mirror_model", "--run", run.uri]

    def waiting(hub: Hub) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"HF_ENDPOINT": hub.url})
        assert process.stderr is not None
        line = next(line for line in process.stderr if "model.safetensors" in line)
        assert "retrying in 60 s" in line
        wait_for(lambda: any("config.json" in path for path in paths_written(run, "mirror_model")), process)
        return process

    with serve(data_stages.hub_root, Refuse("/_storage/*", times=2, status=500, retry_after_seconds=60)) as hub:
        process = waiting(hub)
        process.terminate()
        _, errors = process.communicate()
        error = AirsmithError.from_json_line(errors.splitlines()[-1])
        assert error is not None
        assert (process.returncode, error.kind) == (1, ErrorKind.INTERRUPTED)
        assert not paths_written(run, "mirror_model")

        process = waiting(hub)
        process.kill()
        process.communicate()
        assert paths_written(run, "mirror_model")
        assert_store_is_consistent(run.store)
        assert run.pointer("mirror_model") is None

        assert subprocess.run(command, capture_output=True, env={"HF_ENDPOINT": hub.url}, check=False).returncode == 0
    assert contents(output_of(run, "mirror_model")).keys() >= {"model.safetensors", "config.json"}
