"""The stage publishes a complete, verified base model without executable files, or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airsmith.contracts.run import Run
from airsmith.contracts.stages import TOKENIZER
from airsmith.errors import ErrorKind
from demo.hub.faults import CutConnection, Refuse, WrongByte
from demo.hub.repository import add_user
from demo.hub.server import serve
from tests.support.data_stages import MODEL_ID, DataStages, assert_refused
from tests.support.stage_runs import assert_store_is_consistent, contents, output_of

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


def mirrored(data_stages: DataStages, *faults: Any, token: str | None = None, **conditions: Any) -> Callable[..., Any]:
    """Return a function that mirrors a model from a faulty Hub; it takes fields of the recipe's `model`."""

    def mirror(**model: Any) -> tuple[Run, Any, list[str]]:
        run = data_stages.new_run(model=model)
        with serve(data_stages.hub_root, *faults) as hub:
            environment = {"HF_ENDPOINT": hub.url, **({"HF_TOKEN": token} if token else {})}
            result = data_stages.run_command("mirror_model", run, environment=environment, **conditions)
            return run, result, hub.requests

    return mirror


def test_the_command_copies_the_pinned_commit_and_logs_no_secret(data_stages: DataStages) -> None:
    add_user(data_stages.hub_root, "reader", TOKEN)
    commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL, gated=True, readers=["reader"])
    data_stages.publish_to_hub("model", MODEL_ID, {"model.safetensors": b"a newer one"}, gated=True, readers=["reader"])
    run = data_stages.new_run(model={"revision": commit})
    with serve(data_stages.hub_root) as hub:
        command = [sys.executable, "-m", "airsmith_stages.cli", "mirror_model", "--run", run.uri]
        result = subprocess.run(
            command, capture_output=True, text=True, env={"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}, check=False
        )
    assert result.returncode == 0, result.stderr
    artifact = output_of(run, "mirror_model")
    assert contents(artifact) == MODEL
    assert artifact.manifest.properties[TOKENIZER]
    assert artifact.manifest.metrics == {"size_bytes": sum(map(len, MODEL.values()))}
    assert run.statuses()["mirror_model"].state == "done"
    written = b"".join(run.store.read(info.path) for info in run.store.list(""))
    for secret in (TOKEN, "signature="):
        assert secret not in result.stdout + result.stderr
        assert secret.encode() not in written


def test_a_second_run_reuses_the_artifact_without_requests_to_the_hub(data_stages: DataStages) -> None:
    commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL)
    first, result, _ = mirrored(data_stages)(revision=commit)
    assert result.returncode == 0
    second, result, requests = mirrored(data_stages)(revision=commit)
    assert (result.returncode, requests) == (0, [])
    assert output_of(second, "mirror_model") == output_of(first, "mirror_model")
    assert second.statuses()["mirror_model"].state == "cached"


def test_the_tokenizer_digest_does_not_depend_on_the_weights(data_stages: DataStages) -> None:
    digests = []
    for changes in ({}, {"model.safetensors": b"tuned"}, {"tokenizer_config.json": b'{"eos_token": "x"}'}):
        run, _, _ = mirrored(data_stages)(revision=data_stages.publish_to_hub("model", MODEL_ID, {**MODEL, **changes}))
        digests.append(output_of(run, "mirror_model").manifest.properties[TOKENIZER])
    assert digests[0] == digests[1] != digests[2]


class TestExcludedFiles:
    def test_excluded_globs_pickles_and_code_are_not_copied(self, data_stages: DataStages) -> None:
        extra = {
            "pytorch_model.bin": b"",
            "onnx/model.onnx": b"",
            "a/optimizer.pt": b"",
            "modeling.py": b"",
            "x.md": b"",
        }
        commit = data_stages.publish_to_hub("model", MODEL_ID, {**MODEL, **extra})
        run, result, requests = mirrored(data_stages)(revision=commit, exclude=["*.md", "onnx/*"])
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL
        assert not any(name in request for request in requests for name in extra)

    def test_trusted_code_is_copied(self, data_stages: DataStages) -> None:
        code = {"config.json": b'{"auto_map": {"AutoModel": "modeling.Model"}}', "modeling.py": b"raise SystemExit"}
        commit = data_stages.publish_to_hub("model", MODEL_ID, {**MODEL, **code})
        run, result, _ = mirrored(data_stages)(revision=commit, trust_remote_code=True)
        assert result.returncode == 0, result.stderr
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
            pytest.param({"config.json": b"{"}, "config.json JSON", id="invalid config JSON"),
            pytest.param({"model.safetensors.index.json": b'{"weight_map": {"a": "../up.safetensors"}}'},
                         "../up.safetensors does not exist", id="missing shard"),
            pytest.param({"model.safetensors.index.json": b'{"weight_map": null}'}, "weight_map", id="broken index"),
        ],
    )  # fmt: skip
    def test_a_model_that_cannot_be_trained(self, data_stages: DataStages, change: Any, words: str) -> None:
        files = {name: content for name, content in {**MODEL, **change}.items() if content is not None}
        commit = data_stages.publish_to_hub("model", MODEL_ID, files)
        run, result, _ = mirrored(data_stages)(revision=commit)
        assert_refused(result, run, "mirror_model", ErrorKind.BAD_DATA, MODEL_ID, *words.split())

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
    def test_a_repository_without_read_access(
        self, data_stages: DataStages, token: str | None, repo_id: str, kind: ErrorKind, words: list[str]
    ) -> None:
        add_user(data_stages.hub_root, "stranger", TOKEN)
        access = {"private": repo_id.endswith("private"), "gated": repo_id.endswith("gated")}
        commit = (
            "0" * 40 if repo_id.endswith("nothing") else data_stages.publish_to_hub("model", repo_id, MODEL, **access)
        )
        run, result, _ = mirrored(data_stages, token=token)(id=repo_id, revision=commit)
        assert_refused(result, run, "mirror_model", kind, *words)
        assert token is None or token not in result.stderr

    def test_a_missing_revision(self, data_stages: DataStages) -> None:
        data_stages.publish_to_hub("model", MODEL_ID, MODEL)
        run, result, _ = mirrored(data_stages)(revision="f" * 40)
        assert_refused(result, run, "mirror_model", ErrorKind.NOT_FOUND, MODEL_ID, "f" * 40, "model.revision")

    def test_an_unreachable_hub(self, data_stages: DataStages) -> None:
        run = data_stages.new_run()
        result = data_stages.run_command(
            "mirror_model", run, environment={"HF_ENDPOINT": "http://127.0.0.1:9"}, hub_waits=False
        )
        assert_refused(result, run, "mirror_model", ErrorKind.HUB_UNAVAILABLE, MODEL_ID, "http://127.0.0.1:9")


class TestFaults:
    def test_downloads_resume_after_errors_and_broken_connections(self, data_stages: DataStages) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL)
        run, result, requests = mirrored(
            data_stages,
            Refuse("*/resolve/*/config.json", times=2, retry_after_seconds=0),
            Refuse("*/resolve/*/tokenizer.json", times=1, status=503),
            CutConnection("/_storage/*", offset=1_500_000),
        )(revision=commit)
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL
        assert requests.count(f"GET /{MODEL_ID}/resolve/{commit}/config.json") >= 3
        assert "HTTP 429" in result.stderr
        assert "at byte 0;" not in next(line for line in result.stderr.splitlines() if "model.safetensors" in line)

    @pytest.mark.parametrize("status", [429, 500])
    def test_a_failed_listing_is_requested_again(self, data_stages: DataStages, status: int) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL)
        run, result, _ = mirrored(data_stages, Refuse("/api/*", times=1, status=status, retry_after_seconds=0))(
            revision=commit
        )
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_model")) == MODEL

    @pytest.mark.parametrize("path", ["*/resolve/*/config.json", "*/resolve/*/tokenizer.json", "/_storage/*"])
    def test_a_wrong_byte_is_never_published(self, data_stages: DataStages, path: str) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL)
        run, result, _ = mirrored(data_stages, WrongByte(path, times=9, offset=5))(revision=commit)
        name = "model.safetensors" if path == "/_storage/*" else path.rpartition("/")[2]
        assert_refused(result, run, "mirror_model", ErrorKind.VERIFICATION_FAILED, name, "Run again")

    def test_attempts_without_data_are_limited(self, data_stages: DataStages) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL)
        run, result, requests = mirrored(
            data_stages, Refuse("/_storage/*", times=99, status=500, retry_after_seconds=0)
        )(revision=commit)
        assert_refused(result, run, "mirror_model", ErrorKind.HUB_UNAVAILABLE, "model.safetensors", "HTTP 500")
        assert len([request for request in requests if "_storage" in request]) == 6

    def test_a_failure_stops_copies_that_are_pausing(self, data_stages: DataStages) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, MODEL)
        run, result, _ = mirrored(
            data_stages,
            Refuse("/_storage/*", times=99, status=500, retry_after_seconds=60),
            Refuse("*/resolve/*/tokenizer.json", times=9, status=404),
        )(revision=commit)
        assert_refused(result, run, "mirror_model", ErrorKind.NOT_FOUND, "tokenizer.json")
        assert result.stderr.count("model.safetensors: HTTP 500") == 1


SHARDED = {
    "config.json": b"{}\n",
    "tokenizer.json": b"1\n",
    **{f"model-{index}.safetensors": bytes([index]) * 50_000 for index in range(3)},
}


class TestExistingContent:
    """Content that the store already holds with the same hash is not downloaded again."""

    def test_only_changed_files_of_a_new_commit_are_downloaded(self, data_stages: DataStages) -> None:
        first = data_stages.publish_to_hub("model", MODEL_ID, SHARDED)
        _, result, _ = mirrored(data_stages)(revision=first)
        assert result.returncode == 0, result.stderr
        newer = {**SHARDED, "model-1.safetensors": b"tuned", "tokenizer.json": b"2\n", "renamed.safetensors": b""}
        newer["renamed.safetensors"] = newer.pop("model-2.safetensors")
        run, result, requests = mirrored(data_stages)(revision=data_stages.publish_to_hub("model", MODEL_ID, newer))
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_model")) == newer
        downloaded = {request.rpartition("/")[2] for request in requests if "/api/" not in request}
        # The configuration is checked before files are copied.
        assert downloaded == {"model-1.safetensors", "tokenizer.json", "config.json"}
        assert_store_is_consistent(data_stages.store)

    def test_damaged_or_missing_content_is_downloaded_again(self, data_stages: DataStages) -> None:
        run, _, _ = mirrored(data_stages)(revision=data_stages.publish_to_hub("model", MODEL_ID, SHARDED))
        artifact = output_of(run, "mirror_model")
        kept = Path(data_stages.store.uri.removeprefix("file://"))
        (kept / artifact.path("tokenizer.json")).write_bytes(b"X\n")
        newer = {**SHARDED, "new.safetensors": b"new"}
        run, result, _ = mirrored(data_stages)(revision=data_stages.publish_to_hub("model", MODEL_ID, newer))
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_model")) == newer
        assert "Downloading tokenizer.json because its stored copy is not usable" in result.stderr
        (kept / artifact.path("model-0.safetensors")).unlink()
        newest = {**newer, "newest.safetensors": b"newest"}
        run, result, _ = mirrored(data_stages)(revision=data_stages.publish_to_hub("model", MODEL_ID, newest))
        assert contents(output_of(run, "mirror_model")) == newest

    def test_a_failed_attempt_is_resumed(self, data_stages: DataStages) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, SHARDED)
        dead = Refuse("/_storage/*/model-2.safetensors", times=99, status=500, retry_after_seconds=1)
        run, result, _ = mirrored(data_stages, dead)(revision=commit)
        assert result.error.kind is ErrorKind.HUB_UNAVAILABLE
        left = {info.path.rpartition("/")[2] for info in data_stages.store.list("artifacts")}
        assert {"model-0.safetensors", "model-1.safetensors"} <= left
        run, result, requests = mirrored(data_stages)(revision=commit)
        assert result.returncode == 0, result.stderr
        assert contents(output_of(run, "mirror_model")) == SHARDED
        fetched = {request.rpartition("/")[2] for request in requests if "/_storage/" in request}
        assert fetched == {"model-2.safetensors"}
        artifact = output_of(run, "mirror_model")
        attempts = {info.path.split("/")[3] for info in data_stages.store.list(artifact.folder)}
        assert attempts == {"manifest.json", artifact.manifest.content_root}

    def test_a_wrong_byte_leaves_no_partial_content(self, data_stages: DataStages) -> None:
        commit = data_stages.publish_to_hub("model", MODEL_ID, SHARDED)
        wrong = WrongByte("/_storage/*/model-2.safetensors", times=9, offset=5)
        run, result, _ = mirrored(data_stages, wrong)(revision=commit)
        assert_refused(result, run, "mirror_model", ErrorKind.VERIFICATION_FAILED, "model-2.safetensors")


def test_memory_use_does_not_depend_on_the_file_size(data_stages: DataStages) -> None:
    commit = data_stages.publish_to_hub("model", MODEL_ID, {"config.json": b"{}", WEIGHTS_FILE: bytes(400 * 2**20)})
    run = data_stages.new_run(model={"revision": commit})
    # ru_maxrss would be at least that of the parent process.
    program = (
        "import pathlib, sys\n"
        "from airsmith_stages.cli import main\n"
        "code = main()\n"
        "print(pathlib.Path('/proc/self/status').read_text())\n"
        "sys.exit(code)"
    )
    with serve(data_stages.hub_root) as hub:
        command = [sys.executable, "-c", program, "mirror_model", "--run", run.uri]
        result = subprocess.run(command, capture_output=True, text=True, env={"HF_ENDPOINT": hub.url}, check=False)
    assert result.returncode == 0, result.stderr
    peak = next(line for line in result.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 256 * 1024


def test_an_unknown_registered_model_is_reported(data_stages: DataStages) -> None:
    run = data_stages.new_run(model={"id": "models/tickets/3"})
    result = data_stages.run_command("mirror_model", run)
    assert_refused(result, run, "mirror_model", ErrorKind.NOT_FOUND, "tickets", "3")


def test_a_matching_shard_index_is_accepted(data_stages: DataStages) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    files = {
        "one.safetensors": b"1",
        "two.safetensors": b"2",
        "model.safetensors.index.json": json.dumps(index).encode(),
    }
    run, result, _ = mirrored(data_stages)(
        revision=data_stages.publish_to_hub("model", MODEL_ID, {"config.json": b"{}", **files})
    )
    assert result.returncode == 0, result.stderr
    assert_store_is_consistent(run.store)
