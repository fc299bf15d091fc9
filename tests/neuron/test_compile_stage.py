"""The stage that compiles: the training's own launch inside the tool, and a cache that is whole, or kept until it is.

The tool is the script that stands in for it on a cluster, with other behaviour where a test asks for it.
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
from trainings import NeuronBench, as_torchrun_starts_it

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.run import Run
from airsmith.contracts.stages import CONFIG
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages import launch, memory
from airsmith_stages.failures import exit_code_of
from airsmith_stages.frame import run_stage, take_part
from airsmith_stages.neuron.cache import unpack_cache

HERE = Path(__file__).parent
SCRIPT = f"""\
#!{sys.executable}
import os, signal, subprocess, sys
from importlib.machinery import SourceFileLoader
sys.dont_write_bytecode = True
tool = SourceFileLoader("tool", {str(HERE / "image" / "neuron_parallel_compile")!r}).load_module()
compile_graph = tool.compile_graph
"""
NOTHING_RUNS = "tool.subprocess.run = lambda *args, **kwargs: subprocess.CompletedProcess(args, 0)\n"
COMPILED = ("model.done", "model.neff")

Tool = Callable[..., None]


@pytest.fixture
def bench(tmp_path: Path) -> NeuronBench:
    return NeuronBench(Store.open(f"file://{tmp_path}/store"), tmp_path)


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts the tool on the path; it runs no launch unless told so."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def install(changes: str = "", *, runs: bool = False) -> None:
        path = tmp_path / "bin" / "neuron_parallel_compile"
        path.parent.mkdir(exist_ok=True)
        path.write_text(SCRIPT + ("" if runs else NOTHING_RUNS) + changes + "\nsys.exit(tool.main())\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return install


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What stages have on the disk while they work; nothing afterwards."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("AIRSMITH_SCRATCH", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def _use(scratch: Path) -> None:
    """Every test looks after its scratch folder."""


def new_run(bench: NeuronBench, **training: Any) -> Run:
    run = bench.neuron_run(**training)
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
    """Names of the graphs of a cache, and of their files."""
    found: dict[str, list[str]] = {}
    for name in names:
        _, graph, file = name.split("/")
        found.setdefault(graph, []).append(file)
    return {graph: tuple(sorted(files)) for graph, files in found.items()}


def kept(bench: NeuronBench) -> dict[str, tuple[str, ...]]:
    """What is kept for the next try."""
    folders = {info.path.rpartition("/")[0] for info in bench.store.list("checkpoints") if "manifest" in info.path}
    artifacts = [open_artifact(bench.store, folder) for folder in folders]
    return graphs_in([name for artifact in artifacts if artifact is not None for name in artifact.names()])


def refused(run: Run) -> AirsmithError:
    with pytest.raises(AirsmithError) as caught:
        run_stage("compile", run)
    assert run.statuses()["compile"].state in ("failed", "interrupted")
    assert not look_up_output(run, run.read_spec(), "compile").found
    return caught.value


def test_the_training_s_own_steps_are_run_inside_the_tool_and_the_cache_is_published(
    bench: NeuronBench, tool: Tool, capfd: pytest.CaptureFixture[str]
) -> None:
    tool(runs=True)
    run = new_run(bench)
    pointer = run_stage("compile", run)
    cache = cache_of(run)
    assert cache.type == "compile_cache"
    assert graphs_in(cache.names()) == {f"MODULE_{name}+flags": COMPILED for name in ("forward", "backward", "update")}
    assert cache.read("neuronxcc-2.21.33363.0+82129205/MODULE_update+flags/model.neff") == b"MODULE_update+flags"
    assert {name: pointer.metrics[name] for name in ("graphs", "reused")} == {"graphs": 3, "reused": 0}
    assert pointer.metrics["seconds"]
    assert "Compiling MODULE_backward" in capfd.readouterr().err
    assert cache.manifest.versions.keys() >= {"neuronx-cc", "optimum-neuron", "torch-neuronx", "transformers"}


def test_what_changes_no_graph_finds_the_cache_and_what_does_compiles_another(bench: NeuronBench, tool: Tool) -> None:
    tool()
    first = new_run(bench)
    run_stage("compile", first)
    tool("sys.exit('nothing may be compiled')")
    other = new_run(bench, rows=30, learning_rate=0.5, seed=7, max_steps=99, logging_steps=9)
    assert run_stage("compile", other).cached
    assert cache_of(other).digest == cache_of(first).digest
    for changed in ({"weight_decay": 0.01}, {"max_grad_norm": 0.5}, {"dataset": {"max_length": 32}}):
        assert refused(new_run(bench, **changed)).kind is ErrorKind.INTERNAL, changed


def test_a_failed_graph_fails_the_stage_though_the_tool_ends_well_and_the_next_try_compiles_that_one_alone(
    bench: NeuronBench, tool: Tool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool()
    run = new_run(bench)
    monkeypatch.setenv("STAND_IN_FAILS", "backward")
    error = refused(run)
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "MODULE_backward+flags" in error.message
    assert "MODULE_forward" not in error.message
    assert kept(bench) == {"MODULE_forward+flags": COMPILED, "MODULE_update+flags": COMPILED}

    monkeypatch.delenv("STAND_IN_FAILS")
    capfd.readouterr()
    pointer = run_stage("compile", run)
    log = capfd.readouterr().err
    assert [line for line in log.splitlines() if line.startswith("Compiling ")] == ["Compiling MODULE_backward+flags"]
    assert {name: pointer.metrics[name] for name in ("graphs", "reused")} == {"graphs": 3, "reused": 2}
    assert set(graphs_in(cache_of(run).names()).values()) == {COMPILED}
    assert kept(bench) == {}


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


def test_a_tool_that_dies_leaves_what_it_has_compiled_and_no_lock(bench: NeuronBench, tool: Tool) -> None:
    run = new_run(bench)
    tool(DIES_IN_BACKWARD)
    error = refused(run)
    assert error.kind is ErrorKind.KILLED
    assert "SIGKILL" in error.message
    assert kept(bench) == {"MODULE_forward+flags": COMPILED}
    tool()
    assert run_stage("compile", run).metrics["reused"] == 1
    assert set(graphs_in(cache_of(run).names()).values()) == {COMPILED}


def test_a_graph_that_nobody_came_to_compile_fails_the_stage_though_no_summary_names_it(
    bench: NeuronBench, tool: Tool
) -> None:
    tool(f"{DIES_IN_BACKWARD}os.kill = lambda *args: sys.exit(0)")
    error = refused(new_run(bench))
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "MODULE_backward+flags" in error.message


@pytest.mark.parametrize(
    "says",
    [
        "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory.",
        "sub-process 1 got exception: A process in the process pool was terminated abruptly while the future was "
        "running or pending.",
    ],
    ids=["compiler", "pool"],
)
def test_a_compiler_that_was_killed_for_the_host_s_memory_says_so(bench: NeuronBench, tool: Tool, says: str) -> None:
    tool(f"tool.compile_graph = lambda folder: folder.mkdir(parents=True) or print({says!r}) or True")
    error = refused(new_run(bench))
    assert error.kind is ErrorKind.OUT_OF_MEMORY
    assert "backend.resources.memory" in error.hint
    assert "MODULE_forward+flags" in error.message


def test_a_kill_that_only_the_kernel_counts_is_told_as_such(
    bench: NeuronBench, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 3\n")
    monkeypatch.setattr(memory, "CGROUP_MEMORY_EVENTS", events)
    tool(f"open({str(events)!r}, 'w').write('low 0\\noom 4\\noom_kill 4\\n')\n{DIES_IN_BACKWARD}")
    assert refused(new_run(bench)).kind is ErrorKind.OUT_OF_MEMORY


def test_a_tool_that_compiles_nothing_is_refused(bench: NeuronBench, tool: Tool) -> None:
    tool("tool.GRAPHS = ()")
    error = refused(new_run(bench))
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert "compiled no graph" in error.message


def test_what_a_process_of_the_launch_says_is_what_the_stage_says(bench: NeuronBench, tool: Tool) -> None:
    said = AirsmithError(ErrorKind.BAD_RECIPE, "No layer of that name.", "Correct it.")
    file = json.dumps({"message": {"message": said.to_json_line()}})
    tool(f"open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write({file!r})\nsys.exit(1)")
    error = refused(new_run(bench))
    assert (error.kind, error.message, error.hint) == (said.kind, said.message, said.hint)


def test_a_stage_that_is_told_to_stop_ends_the_compilers_and_keeps_what_they_have_done(
    bench: NeuronBench, tool: Tool, capfd: pytest.CaptureFixture[str], tmp_path: Path
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
    run = new_run(bench)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert exit_code_of(lambda: run_stage("compile", run)) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    error = AirsmithError.from_json_line(capfd.readouterr().err.splitlines()[-1])
    assert error is not None
    assert error.kind is ErrorKind.INTERRUPTED
    assert run.statuses()["compile"].state == "interrupted"
    assert kept(bench) == {"MODULE_forward+flags": COMPILED}
    assert not is_at_work(int(pid.read_text()))


def is_at_work(pid: int) -> bool:
    """Whether a process goes on; one that nobody has taken note of has ended as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_damaged_cache_of_an_earlier_try_is_passed_over(
    bench: NeuronBench, tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool()
    run = new_run(bench)
    monkeypatch.setenv("STAND_IN_FAILS", "backward")
    refused(run)
    for path in (tmp_path / "store" / "checkpoints").rglob("model.neff"):
        path.write_bytes(b"x" * path.stat().st_size)
    monkeypatch.delenv("STAND_IN_FAILS")
    assert run_stage("compile", run).metrics["reused"] == 0
    assert len(graphs_in(cache_of(run).names())) == 3


def test_another_node_compiles_for_itself_and_publishes_nothing(
    bench: NeuronBench, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airsmith_stages.frame import follow_stage

    tool()
    run = new_run(bench)
    monkeypatch.setenv(launch.NODE_RANK, "1")
    follow_stage("compile", run)
    assert not look_up_output(run, run.read_spec(), "compile").found
    monkeypatch.setenv("STAND_IN_FAILS", "backward")
    with pytest.raises(AirsmithError):
        follow_stage("compile", run)
    assert kept(bench) == {}
    assert "compile" not in run.statuses()


def test_the_steps_see_a_rate_of_0_an_accumulation_a_logged_step_and_one_that_is_not(
    bench: NeuronBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airsmith_stages.neuron.compiling import STEPS, GraphExtraction

    rates, lengths, logged = [], set(), []
    step_of = GraphExtraction.training_step

    def noting(trainer: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        lengths.add(tuple(inputs["input_ids"].shape))
        return step_of(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(GraphExtraction, "training_step", noting)
    monkeypatch.setattr(GraphExtraction, "log", lambda trainer, logs: logged.append(trainer.state.global_step))
    run = new_run(bench, warmup_ratio=0.1, logging_steps=50, max_steps=400)
    with as_torchrun_starts_it():
        take_part("compile", run)
    micro_batches = 2
    assert len(rates) == STEPS * micro_batches
    assert rates[0] == 0 < rates[micro_batches]
    assert lengths == {(2, 16)}
    assert set(logged) == {STEPS // 2, STEPS}


def test_what_is_taken_from_the_store_has_no_lock_and_no_graph_that_failed(bench: NeuronBench, tmp_path: Path) -> None:
    files = ("MODULE_1+a/model.neff", "MODULE_1+a/model.done", "MODULE_1+a/model.hlo.lock", "MODULE_2+a/model.log")
    with write_artifact(
        bench.store, "artifacts/compile_cache/left", type="compile_cache", digest="left", inputs={}, versions={}
    ) as writer:
        for name in files:
            writer.add_bytes(f"neuronxcc-2.21+8/{name}", b"")
        cache = writer.publish()
    assert unpack_cache(cache, tmp_path / "cache") == 1
    left = [path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*.*")]
    assert sorted(left) == [
        "neuronxcc-2.21+8", "neuronxcc-2.21+8/MODULE_1+a/model.done", "neuronxcc-2.21+8/MODULE_1+a/model.neff",
    ]  # fmt: skip
