"""The base model arrives whole, as announced and harmless, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import MODEL_ID, Bench, assert_nothing_half_done, assert_refused, contents, output_of, write_files

from airsmith.artifacts.listing import listing_digest
from airsmith.contracts.run import Run
from airsmith.contracts.stages import TOKENIZER
from airsmith.errors import ErrorKind
from demo.hub.faults import CutConnection, Refuse, WrongByte
from demo.hub.repository import add_user
from demo.hub.server import serve

WEIGHTS = bytes(range(256)) * 12_000
"""About 3 MB: several chunks of a download."""
WEIGHTS_FILE = "model.safetensors"
MODEL = {
    "config.json": b'{"model_type": "llama"}\n',
    "tokenizer.json": b'{"version": "1.0"}\n',
    "tokenizer_config.json": b"{}\n",
    WEIGHTS_FILE: WEIGHTS,
    "sub/notes.txt": b"kept\n",
}
TOKEN = "hf_a-very-secret-token"


def mirrored(bench: Bench, *faults: Any, token: str | None = None, **conditions: Any) -> Callable[..., Any]:
    """Mirror a model from a Hub with faults; what comes back takes the recipe's `model`."""

    def mirror(**model: Any) -> tuple[Run, Any, list[str]]:
        run = bench.new_run(model=model)
        with serve(bench.hub_root, *faults) as hub:
            environment = {"HF_ENDPOINT": hub.url, **({"HF_TOKEN": token} if token else {})}
            ended = bench.command("mirror_model", run, environment=environment, **conditions)
            return run, ended, hub.requests

    return mirror


def test_the_real_command_copies_the_pinned_commit_and_keeps_secrets(bench: Bench) -> None:
    add_user(bench.hub_root, "reader", TOKEN)
    commit = bench.publish("model", MODEL_ID, MODEL, gated=True, readers=["reader"])
    bench.publish("model", MODEL_ID, {"model.safetensors": b"a newer one"}, gated=True, readers=["reader"])
    run = bench.new_run(model={"revision": commit})
    with serve(bench.hub_root) as hub:
        command = [sys.executable, "-m", "airsmith_stages.cli", "mirror_model", "--run", run.uri]
        ended = subprocess.run(
            command, capture_output=True, text=True, env={"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}, check=False
        )
    assert ended.returncode == 0, ended.stderr
    artifact = output_of(run, "mirror_model")
    assert contents(artifact) == MODEL
    assert artifact.manifest.properties[TOKENIZER]
    assert artifact.manifest.metrics == {"size_bytes": sum(map(len, MODEL.values()))}
    assert run.statuses()["mirror_model"].state == "done"
    written = b"".join(run.store.read(info.path) for info in run.store.list(""))
    for secret in (TOKEN, "signature="):
        assert secret not in ended.stdout + ended.stderr
        assert secret.encode() not in written


def test_a_second_run_uses_what_is_there_and_asks_the_hub_nothing(bench: Bench) -> None:
    commit = bench.publish("model", MODEL_ID, MODEL)
    first, ended, _ = mirrored(bench)(revision=commit)
    assert ended.code == 0
    second, ended, requests = mirrored(bench)(revision=commit)
    assert (ended.code, requests) == (0, [])
    assert output_of(second, "mirror_model") == output_of(first, "mirror_model")
    assert second.statuses()["mirror_model"].state == "cached"


def test_weights_alone_leave_the_tokenizers_digest_as_it_is(bench: Bench) -> None:
    digests = []
    for changes in ({}, {"model.safetensors": b"tuned"}, {"tokenizer_config.json": b'{"eos_token": "x"}'}):
        run, _, _ = mirrored(bench)(revision=bench.publish("model", MODEL_ID, {**MODEL, **changes}))
        digests.append(output_of(run, "mirror_model").manifest.properties[TOKENIZER])
    assert digests[0] == digests[1] != digests[2]


class TestWhatIsLeftOut:
    def test_globs_pickles_and_code(self, bench: Bench) -> None:
        extra = {
            "pytorch_model.bin": b"",
            "onnx/model.onnx": b"",
            "a/optimizer.pt": b"",
            "modeling.py": b"",
            "x.md": b"",
        }
        commit = bench.publish("model", MODEL_ID, {**MODEL, **extra})
        run, ended, requests = mirrored(bench)(revision=commit, exclude=["*.md", "onnx/*"])
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL
        assert not any(name in request for request in requests for name in extra)

    def test_code_comes_along_where_it_is_trusted(self, bench: Bench) -> None:
        code = {"config.json": b'{"auto_map": {"AutoModel": "modeling.Model"}}', "modeling.py": b"raise SystemExit"}
        commit = bench.publish("model", MODEL_ID, {**MODEL, **code})
        run, ended, _ = mirrored(bench)(revision=commit, trust_remote_code=True)
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == {**MODEL, **code}


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            pytest.param({WEIGHTS_FILE: None, "pytorch_model.bin": b""}, "pytorch_model.bin pickle", id="pickle"),
            pytest.param({WEIGHTS_FILE: None, "model.bin": b"", "adapter/a.safetensors": b""}, "pickle model.bin",
                         id="safetensors elsewhere"),
            pytest.param({WEIGHTS_FILE: None}, "no *.safetensors model.exclude", id="no weights"),
            pytest.param({"config.json": b'{"auto_map": {}}'}, "config.json auto_map trust_remote_code", id="auto_map"),
            pytest.param({"tokenizer_config.json": b'{"auto_map": {}}'}, "tokenizer_config.json auto_map",
                         id="auto_map of the tokenizer"),
            pytest.param({"config.json": b"{"}, "config.json JSON", id="config is no JSON"),
            pytest.param({"model.safetensors.index.json": b'{"weight_map": {"a": "../up.safetensors"}}'},
                         "../up.safetensors not there", id="missing shard"),
            pytest.param({"model.safetensors.index.json": b'{"weight_map": null}'}, "weight_map", id="broken index"),
        ],
    )  # fmt: skip
    def test_a_model_that_could_not_be_trained(self, bench: Bench, change: Any, words: str) -> None:
        files = {name: content for name, content in {**MODEL, **change}.items() if content is not None}
        commit = bench.publish("model", MODEL_ID, files)
        run, ended, _ = mirrored(bench)(revision=commit)
        assert_refused(ended, run, "mirror_model", ErrorKind.BAD_DATA, MODEL_ID, *words.split())

    @pytest.mark.parametrize(
        ("token", "repo_id", "kind", "words"),
        [
            (None, "tests/nothing", ErrorKind.NOT_FOUND, ["tests/nothing", "secrets.hf_token"]),
            (None, "tests/private", ErrorKind.NOT_FOUND, ["tests/private", "private", "secrets.hf_token"]),
            (None, "tests/gated", ErrorKind.ACCESS_DENIED, ["tests/gated", "401", "terms", "secrets.hf_token"]),
            (TOKEN, "tests/gated", ErrorKind.ACCESS_DENIED, ["tests/gated", "403", "terms", "secrets.hf_token"]),
            ("hf_unknown-token", "tests/open", ErrorKind.ACCESS_DENIED, ["tests/open", "token", "401"]),
        ],
    )
    def test_a_repository_that_may_not_be_read(
        self, bench: Bench, token: str | None, repo_id: str, kind: ErrorKind, words: list[str]
    ) -> None:
        add_user(bench.hub_root, "stranger", TOKEN)
        access = {"private": repo_id.endswith("private"), "gated": repo_id.endswith("gated")}
        commit = "0" * 40 if repo_id.endswith("nothing") else bench.publish("model", repo_id, MODEL, **access)
        run, ended, _ = mirrored(bench, token=token)(id=repo_id, revision=commit)
        assert_refused(ended, run, "mirror_model", kind, *words)
        assert token is None or token not in ended.stderr

    def test_a_revision_that_is_gone(self, bench: Bench) -> None:
        bench.publish("model", MODEL_ID, MODEL)
        run, ended, _ = mirrored(bench)(revision="f" * 40)
        assert_refused(ended, run, "mirror_model", ErrorKind.NOT_FOUND, MODEL_ID, "f" * 40, "model.revision")

    def test_a_hub_that_does_not_answer(self, bench: Bench) -> None:
        run = bench.new_run()
        ended = bench.command("mirror_model", run, environment={"HF_ENDPOINT": "http://127.0.0.1:9"}, hub_waits=False)
        assert_refused(ended, run, "mirror_model", ErrorKind.HUB_UNAVAILABLE, MODEL_ID, "http://127.0.0.1:9")


class TestFaults:
    def test_busy_and_broken_connections_are_asked_again_for_the_rest(self, bench: Bench) -> None:
        commit = bench.publish("model", MODEL_ID, MODEL)
        run, ended, requests = mirrored(
            bench,
            Refuse("*/resolve/*/config.json", times=2, retry_after_seconds=0),
            Refuse("*/resolve/*/tokenizer.json", times=1, status=503),
            CutConnection("/_storage/*", offset=1_500_000),
        )(revision=commit)
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL
        assert requests.count(f"GET /{MODEL_ID}/resolve/{commit}/config.json") >= 3
        assert "HTTP 429" in ended.stderr
        assert "at byte 0;" not in next(line for line in ended.stderr.splitlines() if "model.safetensors" in line)

    @pytest.mark.parametrize("status", [429, 500])
    def test_a_busy_listing_is_asked_for_again(self, bench: Bench, status: int) -> None:
        commit = bench.publish("model", MODEL_ID, MODEL)
        run, ended, _ = mirrored(bench, Refuse("/api/*", times=1, status=status, retry_after_seconds=0))(
            revision=commit
        )
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL

    @pytest.mark.parametrize("path", ["*/resolve/*/config.json", "*/resolve/*/tokenizer.json", "/_storage/*"])
    def test_a_wrong_byte_is_never_published(self, bench: Bench, path: str) -> None:
        commit = bench.publish("model", MODEL_ID, MODEL)
        run, ended, _ = mirrored(bench, WrongByte(path, times=9, offset=5))(revision=commit)
        name = "model.safetensors" if path == "/_storage/*" else path.rpartition("/")[2]
        assert_refused(ended, run, "mirror_model", ErrorKind.VERIFICATION_FAILED, name, "run again")

    def test_a_server_that_sends_nothing_is_given_up(self, bench: Bench) -> None:
        commit = bench.publish("model", MODEL_ID, MODEL)
        run, ended, requests = mirrored(bench, Refuse("/_storage/*", times=99, status=500, retry_after_seconds=0))(
            revision=commit
        )
        assert_refused(ended, run, "mirror_model", ErrorKind.HUB_UNAVAILABLE, "model.safetensors", "HTTP 500")
        assert len([request for request in requests if "_storage" in request]) == 6

    def test_the_first_failure_ends_a_copy_that_waits(self, bench: Bench) -> None:
        commit = bench.publish("model", MODEL_ID, MODEL)
        run, ended, _ = mirrored(
            bench,
            Refuse("/_storage/*", times=99, status=500, retry_after_seconds=60),
            Refuse("*/resolve/*/tokenizer.json", times=9, status=404),
        )(revision=commit)
        assert_refused(ended, run, "mirror_model", ErrorKind.NOT_FOUND, "tokenizer.json")
        assert ended.stderr.count("model.safetensors: HTTP 500") == 1


SHARDED = {
    "config.json": b"{}\n",
    "tokenizer.json": b"1\n",
    **{f"model-{index}.safetensors": bytes([index]) * 50_000 for index in range(3)},
}


class TestKnownContent:
    """What the store has already is not fetched again, where a hash has proven it."""

    def test_a_new_commit_moves_only_what_has_changed(self, bench: Bench) -> None:
        first = bench.publish("model", MODEL_ID, SHARDED)
        _, ended, _ = mirrored(bench)(revision=first)
        assert ended.code == 0, ended.stderr
        newer = {**SHARDED, "model-1.safetensors": b"tuned", "tokenizer.json": b"2\n", "renamed.safetensors": b""}
        newer["renamed.safetensors"] = newer.pop("model-2.safetensors")
        run, ended, requests = mirrored(bench)(revision=bench.publish("model", MODEL_ID, newer))
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == newer
        moved = {request.rpartition("/")[2] for request in requests if "/api/" not in request}
        # A configuration is looked at before anything is copied.
        assert moved == {"model-1.safetensors", "tokenizer.json", "config.json"}
        assert_nothing_half_done(bench.store)

    def test_what_is_damaged_or_gone_is_fetched_after_all(self, bench: Bench) -> None:
        run, _, _ = mirrored(bench)(revision=bench.publish("model", MODEL_ID, SHARDED))
        artifact = output_of(run, "mirror_model")
        kept = Path(bench.store.uri.removeprefix("file://"))
        (kept / artifact.path("tokenizer.json")).write_bytes(b"X\n")
        newer = {**SHARDED, "new.safetensors": b"new"}
        run, ended, _ = mirrored(bench)(revision=bench.publish("model", MODEL_ID, newer))
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == newer
        assert "tokenizer.json is fetched after all" in ended.stderr
        (kept / artifact.path("model-0.safetensors")).unlink()
        newest = {**newer, "newest.safetensors": b"newest"}
        run, ended, _ = mirrored(bench)(revision=bench.publish("model", MODEL_ID, newest))
        assert contents(output_of(run, "mirror_model")) == newest

    def test_an_attempt_that_was_broken_off_is_gone_on_with(self, bench: Bench) -> None:
        commit = bench.publish("model", MODEL_ID, SHARDED)
        dead = Refuse("/_storage/*/model-2.safetensors", times=99, status=500, retry_after_seconds=1)
        run, ended, _ = mirrored(bench, dead)(revision=commit)
        assert ended.error.kind is ErrorKind.HUB_UNAVAILABLE
        left = {info.path.rpartition("/")[2] for info in bench.store.list("artifacts")}
        assert {"model-0.safetensors", "model-1.safetensors"} <= left
        run, ended, requests = mirrored(bench)(revision=commit)
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == SHARDED
        fetched = {request.rpartition("/")[2] for request in requests if "/_storage/" in request}
        assert fetched == {"model-2.safetensors"}
        artifact = output_of(run, "mirror_model")
        attempts = {info.path.split("/")[3] for info in bench.store.list(artifact.folder)}
        assert attempts == {"manifest.json", artifact.manifest.content_root}

    def test_a_wrong_byte_leaves_nothing_to_go_on_with(self, bench: Bench) -> None:
        commit = bench.publish("model", MODEL_ID, SHARDED)
        wrong = WrongByte("/_storage/*/model-2.safetensors", times=9, offset=5)
        run, ended, _ = mirrored(bench, wrong)(revision=commit)
        assert_refused(ended, run, "mirror_model", ErrorKind.VERIFICATION_FAILED, "model-2.safetensors")


def test_memory_holds_ranges_of_a_file_and_never_the_file(bench: Bench) -> None:
    commit = bench.publish("model", MODEL_ID, {"config.json": b"{}", WEIGHTS_FILE: bytes(400 * 2**20)})
    run = bench.new_run(model={"revision": commit})
    # Not ru_maxrss, which is never below that of the process that started this one.
    program = (
        "import pathlib, sys\n"
        "from airsmith_stages.cli import main\n"
        "code = main()\n"
        "print(pathlib.Path('/proc/self/status').read_text())\n"
        "sys.exit(code)"
    )
    with serve(bench.hub_root) as hub:
        command = [sys.executable, "-c", program, "mirror_model", "--run", run.uri]
        ended = subprocess.run(command, capture_output=True, text=True, env={"HF_ENDPOINT": hub.url}, check=False)
    assert ended.returncode == 0, ended.stderr
    peak = next(line for line in ended.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 256 * 1024


class TestStoreSource:
    @pytest.fixture
    def source(self, tmp_path: Path) -> str:
        return f"file://{write_files(tmp_path / 'source', MODEL)}"

    def test_a_folder_is_copied(self, bench: Bench, source: str) -> None:
        run = bench.new_run(model={"id": source, "revision": listing_digest(source)})
        ended = bench.command("mirror_model", run)
        assert ended.code == 0, ended.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL

    def test_a_folder_that_has_changed_is_refused(self, bench: Bench, source: str, tmp_path: Path) -> None:
        run = bench.new_run(model={"id": source, "revision": listing_digest(source)})
        (tmp_path / "source/config.json").write_text("{}")
        ended = bench.command("mirror_model", run)
        assert_refused(ended, run, "mirror_model", ErrorKind.BAD_DATA, source, "has changed")

    def test_a_folder_that_is_not_there_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        run = bench.new_run(model={"id": f"file://{tmp_path}/nowhere", "revision": "listing-0"})
        ended = bench.command("mirror_model", run)
        assert_refused(ended, run, "mirror_model", ErrorKind.NOT_FOUND, f"{tmp_path}/nowhere", "URI")


def test_a_registered_model_needs_no_copy_and_an_unknown_one_is_named(bench: Bench) -> None:
    run = bench.new_run(model={"id": "models/tickets/3"})
    ended = bench.command("mirror_model", run)
    assert_refused(ended, run, "mirror_model", ErrorKind.NOT_FOUND, "tickets", "3")


def test_a_shard_index_that_fits_is_accepted(bench: Bench) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    files = {
        "one.safetensors": b"1",
        "two.safetensors": b"2",
        "model.safetensors.index.json": json.dumps(index).encode(),
    }
    run, ended, _ = mirrored(bench)(revision=bench.publish("model", MODEL_ID, {"config.json": b"{}", **files}))
    assert ended.code == 0, ended.stderr
    assert_nothing_half_done(run.store)
