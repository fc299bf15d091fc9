"""Stage `compile`: runs the training's launch inside the tool and publishes a complete cache, or saves a partial one.

The tool is the script that replaces it in the test image; tests change its behavior.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.stages import CONFIG
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages import launch, memory
from airsmith_stages.failures import exit_code_of
from airsmith_stages.neuron.cache import unpack_cache
from airsmith_stages.stage_runner import run_stage, run_worker
from tests.support.neuron_training_runs import NeuronTrainingRuns, torchrun_environment

HERE = Path(__file__).parent
SCRIPT = f"""\
#!{sys.executable}
import os, signal, subprocess, sys
from importlib.machinery import SourceFileLoader
sys.dont_write_bytecode = True
tool = SourceFileLoader("tool", {str(HERE / "image" / "neuron_parallel_compile")!r}).load_module()
compile_graph = tool.compile_graph
"""
NO_LAUNCH = "tool.subprocess.run = lambda *args, **kwargs: subprocess.CompletedProcess(args, 0)\n"
COMPILED = ("model.done", "model.neff")

Tool = Callable[..., None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Returns a function that installs the tool on the path; by default the tool runs no launch."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def install(changes: str = "", *, run_launch: bool = False) -> None:
        path = tmp_path / "bin" / "neuron_parallel_compile"
        path.parent.mkdir(exist_ok=True)
        path.write_text(SCRIPT + ("" if run_launch else NO_LAUNCH) + changes + "\nsys.exit(tool.main())\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return install


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stages' scratch folder, which must be empty after the test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("AIRSMITH_SCRATCH", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def _use_scratch(scratch: Path) -> None:
    """Check the scratch folder in every test."""


def new_run(trainings: NeuronTrainingRuns, **training: Any) -> Run:
    run = trainings.neuron_run(**training)
    pointer = run.pointer("mirror_model")
    assert pointer is not None
    run.write_pointer(pointer.model_copy(update={"properties": {**pointer.properties, CONFIG: "config-of-base"}}))
    return run


def cache_of(run: Run) -> Artifact:
    pointer = run.pointer("compile")
    assert pointer is not None
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    return artifact


def graphs_in(names: list[str]) -> dict[str, tuple[str, ...]]:
    """The files of each graph of a cache."""
    found: dict[str, list[str]] = {}
    for name in names:
        _, graph, file = name.split("/")
        found.setdefault(graph, []).append(file)
    return {graph: tuple(sorted(files)) for graph, files in found.items()}


def saved_graphs(trainings: NeuronTrainingRuns) -> dict[str, tuple[str, ...]]:
    """The graphs saved for the next attempt."""
    folders = {info.path.rpartition("/")[0] for info in trainings.store.list("checkpoints") if "manifest" in info.path}
    artifacts = [open_artifact(trainings.store, folder) for folder in folders]
    return graphs_in([name for artifact in artifacts if artifact is not None for name in artifact.names()])


def error_of(run: Run) -> AirsmithError:
    with pytest.raises(AirsmithError) as caught:
        run_stage("compile", run)
    assert run.statuses()["compile"].state in ("failed", "interrupted")
    assert not look_up_output(run, run.read_spec(), "compile").found
    return caught.value


def test_the_training_runs_inside_the_tool_and_its_cache_is_published(
    trainings: NeuronTrainingRuns, tool: Tool, capfd: pytest.CaptureFixture[str]
) -> None:
    tool(run_launch=True)
    run = new_run(trainings)
    pointer = run_stage("compile", run)
    cache = cache_of(run)
    assert cache.type == "compile_cache"
    assert graphs_in(cache.names()) == {f"MODULE_{name}+flags": COMPILED for name in ("forward", "backward", "update")}
    assert cache.read("neuronxcc-2.21.33363.0+82129205/MODULE_update+flags/model.neff") == b"MODULE_update+flags"
    assert {name: pointer.metrics[name] for name in ("graphs", "reused")} == {"graphs": 3, "reused": 0}
    assert pointer.metrics["seconds"]
    assert "Compiling MODULE_backward" in capfd.readouterr().err
    assert cache.manifest.versions.keys() >= {"neuronx-cc", "optimum-neuron", "torch-neuronx", "transformers"}


def test_only_settings_that_change_graphs_require_another_cache(trainings: NeuronTrainingRuns, tool: Tool) -> None:
    tool()
    first = new_run(trainings)
    run_stage("compile", first)
    tool("sys.exit('nothing may be compiled')")
    other = new_run(trainings, rows=30, learning_rate=0.5, seed=7, max_steps=99, logging_steps=9)
    assert run_stage("compile", other).cached
    assert cache_of(other).digest == cache_of(first).digest
    for changed in ({"weight_decay": 0.01}, {"max_grad_norm": 0.5}, {"dataset": {"max_length": 32}}):
        assert error_of(new_run(trainings, **changed)).kind is ErrorKind.INTERNAL, changed


def test_a_failed_graph_fails_the_stage_and_only_it_is_compiled_again(
    trainings: NeuronTrainingRuns, tool: Tool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool()
    run = new_run(trainings)
    monkeypatch.setenv("STAND_IN_FAILS", "backward")
    error = error_of(run)
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "MODULE_backward+flags" in error.message
    assert "MODULE_forward" not in error.message
    assert saved_graphs(trainings) == {"MODULE_forward+flags": COMPILED, "MODULE_update+flags": COMPILED}

    monkeypatch.delenv("STAND_IN_FAILS")
    capfd.readouterr()
    pointer = run_stage("compile", run)
    log = capfd.readouterr().err
    assert [line for line in log.splitlines() if line.startswith("Compiling ")] == ["Compiling MODULE_backward+flags"]
    assert {name: pointer.metrics[name] for name in ("graphs", "reused")} == {"graphs": 3, "reused": 2}
    assert set(graphs_in(cache_of(run).names()).values()) == {COMPILED}
    assert saved_graphs(trainings) == {}


DIES_IN_BACKWARD = """
def compile_or_die(folder):
    if "backward" in folder.name:
        folder.mkdir(parents=True)
        (folder / "model.hlo_module.pb").touch()
        (folder / "model.hlo_module.pb.lock").touch()
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return compile_graph(folder)
tool.compile_graph = compile_or_die
"""


def test_the_graphs_of_a_killed_tool_are_saved_without_locks(trainings: NeuronTrainingRuns, tool: Tool) -> None:
    run = new_run(trainings)
    tool(DIES_IN_BACKWARD)
    error = error_of(run)
    assert error.kind is ErrorKind.KILLED
    assert "SIGKILL" in error.message
    assert saved_graphs(trainings) == {"MODULE_forward+flags": COMPILED}
    tool()
    assert run_stage("compile", run).metrics["reused"] == 1
    assert set(graphs_in(cache_of(run).names()).values()) == {COMPILED}


def test_a_graph_without_result_fails_the_stage_though_no_summary_names_it(
    trainings: NeuronTrainingRuns, tool: Tool
) -> None:
    tool(f"{DIES_IN_BACKWARD}os.kill = lambda *args: sys.exit(0)")
    error = error_of(new_run(trainings))
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "MODULE_backward+flags" in error.message


@pytest.mark.parametrize(
    "output",
    [
        "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory.",
        "sub-process 1 got exception: A process in the process pool was terminated abruptly while the future was "
        "running or pending.",
    ],
    ids=["compiler", "pool"],
)
def test_a_compiler_killed_by_the_kernel_is_reported_as_out_of_memory(
    trainings: NeuronTrainingRuns, tool: Tool, output: str
) -> None:
    tool(f"tool.compile_graph = lambda folder: folder.mkdir(parents=True) or print({output!r}) or True")
    error = error_of(new_run(trainings))
    assert error.kind is ErrorKind.OUT_OF_MEMORY
    assert "backend.resources.memory" in error.hint
    assert "MODULE_forward+flags" in error.message


def test_a_kill_counted_only_by_the_cgroup_is_reported_as_out_of_memory(
    trainings: NeuronTrainingRuns, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 3\n")
    monkeypatch.setattr(memory, "CGROUP_MEMORY_EVENTS", events)
    tool(f"open({str(events)!r}, 'w').write('low 0\\noom 4\\noom_kill 4\\n')\n{DIES_IN_BACKWARD}")
    assert error_of(new_run(trainings)).kind is ErrorKind.OUT_OF_MEMORY


def test_a_tool_that_compiles_no_graph_fails_the_stage(trainings: NeuronTrainingRuns, tool: Tool) -> None:
    tool("tool.GRAPHS = ()")
    error = error_of(new_run(trainings))
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "compiled no graph" in error.message


def test_the_stage_reports_the_error_of_a_launched_process(trainings: NeuronTrainingRuns, tool: Tool) -> None:
    reported = AirsmithError(ErrorKind.BAD_RECIPE, "No layer of that name.", "Correct it.")
    file = json.dumps({"message": {"message": reported.to_json_line()}})
    tool(f"open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write({file!r})\nsys.exit(1)")
    error = error_of(new_run(trainings))
    assert (error.kind, error.message, error.hint) == (reported.kind, reported.message, reported.hint)


def test_sigterm_kills_the_compilers_and_saves_the_compiled_graphs(
    trainings: NeuronTrainingRuns, tool: Tool, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    tool(
        f"""
def compile_and_wait(folder):
    if "backward" in folder.name:
        compiler = subprocess.Popen(["sleep", "600"])
        open({str(pid)!r}, "w").write(str(compiler.pid))
        os.kill(os.getppid(), signal.SIGTERM)
        compiler.wait()
    return compile_graph(folder)
tool.compile_graph = compile_and_wait
"""
    )
    run = new_run(trainings)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert exit_code_of(lambda: run_stage("compile", run)) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    error = AirsmithError.from_json_line(capfd.readouterr().err.splitlines()[-1])
    assert error is not None
    assert error.kind is ErrorKind.INTERRUPTED
    assert run.statuses()["compile"].state == "interrupted"
    assert saved_graphs(trainings) == {"MODULE_forward+flags": COMPILED}
    assert not is_running(int(pid.read_text()))


def is_running(pid: int) -> bool:
    """Whether a process has not exited; a zombie has exited."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_damaged_saved_cache_is_skipped(
    trainings: NeuronTrainingRuns, tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool()
    run = new_run(trainings)
    monkeypatch.setenv("STAND_IN_FAILS", "backward")
    error_of(run)
    for path in (tmp_path / "store" / "checkpoints").rglob("model.neff"):
        path.write_bytes(b"x" * path.stat().st_size)
    monkeypatch.delenv("STAND_IN_FAILS")
    assert run_stage("compile", run).metrics["reused"] == 0
    assert len(graphs_in(cache_of(run).names())) == 3


def test_a_follower_node_compiles_and_publishes_nothing(
    trainings: NeuronTrainingRuns, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airsmith_stages.stage_runner import run_follower_node

    tool()
    run = new_run(trainings)
    monkeypatch.setenv(launch.NODE_RANK, "1")
    run_follower_node("compile", run)
    assert not look_up_output(run, run.read_spec(), "compile").found
    monkeypatch.setenv("STAND_IN_FAILS", "backward")
    with pytest.raises(AirsmithError):
        run_follower_node("compile", run)
    assert saved_graphs(trainings) == {}
    assert "compile" not in run.statuses()


def test_the_steps_cover_all_graphs_of_a_training(
    trainings: NeuronTrainingRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airsmith_stages.neuron.graph_extraction import STEPS, GraphExtraction

    rates, lengths, logged = [], set(), []
    step_of = GraphExtraction.training_step

    def recording(trainer: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        lengths.add(tuple(inputs["input_ids"].shape))
        return step_of(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(GraphExtraction, "training_step", recording)
    monkeypatch.setattr(GraphExtraction, "log", lambda trainer, logs: logged.append(trainer.state.global_step))
    run = new_run(trainings, warmup_ratio=0.1, logging_steps=50, max_steps=400)
    with torchrun_environment():
        run_worker("compile", run)
    micro_batches = 2
    assert len(rates) == STEPS * micro_batches
    assert rates[0] == 0 < rates[micro_batches]
    assert lengths == {(2, 16)}
    assert set(logged) == {STEPS // 2, STEPS}


def test_an_unpacked_cache_has_no_locks_and_no_failed_graphs(trainings: NeuronTrainingRuns, tmp_path: Path) -> None:
    files = ("MODULE_1+a/model.neff", "MODULE_1+a/model.done", "MODULE_1+a/model.hlo.lock", "MODULE_2+a/model.log")
    with write_artifact(
        trainings.store, "artifacts/compile_cache/left", type="compile_cache", digest="left", inputs={}, versions={}
    ) as writer:
        for name in files:
            writer.add_bytes(f"neuronxcc-2.21+8/{name}", b"")
        cache = writer.publish()
    assert unpack_cache(cache, tmp_path / "cache") == 1
    left = [path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*.*")]
    assert sorted(left) == [
        "neuronxcc-2.21+8", "neuronxcc-2.21+8/MODULE_1+a/model.done", "neuronxcc-2.21+8/MODULE_1+a/model.neff",
    ]  # fmt: skip
