"""The folder that the local Hub serves.

    <root>/objects/<sha256>                       the content of each file, deduplicated
    <root>/{models,datasets}/<owner>/<name>.json  a repository: its flags, readers, branches and commits
    <root>/users.json                             token -> user name

A commit's id depends on its content only, and commits are kept: publishing the same files again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

Kind = Literal["model", "dataset"]

_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".parquet", ".jsonl"})
LFS_SIZE_BYTES = 10 * 1024 * 1024  # a larger file is LFS whatever its name


class StoredFile(BaseModel):
    """One file of a commit. `blob_id` is the git object id of the content, or of the pointer if the file is LFS."""

    size: int
    sha256: str
    blob_id: str
    lfs: bool

    @property
    def etag(self) -> str:
        """The ETag by which the client identifies this content."""
        return self.sha256 if self.lfs else self.blob_id


class Commit(BaseModel):
    """The files of a repository at one commit: path -> file."""

    created_at: str = Field(description="date and time in the only format that the client parses")
    files: dict[str, StoredFile]


class Repository(BaseModel):
    """A repository. Only its `readers` can see it if it is private, or download from it if it is gated."""

    private: bool = False
    gated: bool = False
    readers: list[str] = Field(default=[], description="names of users")
    branches: dict[str, str] = Field(default={}, description="name -> commit id")
    commits: dict[str, Commit] = Field(default={}, description="commit id -> commit")

    def resolve(self, revision: str) -> str | None:
        """The commit id of a branch or commit id; None if it does not exist."""
        commit_id = self.branches.get(revision, revision)
        return commit_id if commit_id in self.commits else None


def publish(
    root: Path,
    kind: Kind,
    repo_id: str,
    folder: Path,
    *,
    revision: str = "main",
    private: bool = False,
    gated: bool = False,
    readers: Iterable[str] = (),
) -> str:
    """Publish the files under `folder` as the newest commit of a branch.

    :param repo_id: `owner/name`.
    :param revision: the branch; created if it does not exist.
    :param readers: names of the users who may read a private or gated repository.
    :returns: the commit's id.
    :raises ValueError: `repo_id` is malformed or `folder` contains no files.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is not a valid repository id; use the form owner/name.")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise ValueError(f"{folder} contains no files to publish as {repo_id}.")
    files = {path.relative_to(folder).as_posix(): _store_file(root, path) for path in paths}
    commit_id = _commit_id_of(files)
    repository = load_repository(root, kind, repo_id) or Repository()
    repository.private, repository.gated, repository.readers = private, gated, sorted(readers)
    repository.branches[revision] = commit_id
    repository.commits.setdefault(commit_id, Commit(created_at=_now(), files=files))
    write_atomically(_repository_file(root, kind, repo_id), repository.model_dump_json(indent=1))
    return commit_id


def load_repository(root: Path, kind: Kind, repo_id: str) -> Repository | None:
    """Read a repository; None if it does not exist."""
    if not _REPO_ID.fullmatch(repo_id):
        return None
    try:
        return Repository.model_validate_json(_repository_file(root, kind, repo_id).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def add_user(root: Path, name: str, token: str) -> None:
    """Add a user with this token."""
    write_atomically(root / "users.json", json.dumps({**load_users(root), token: name}))


def load_users(root: Path) -> dict[str, str]:
    """All users: token -> name."""
    try:
        users: dict[str, str] = json.loads((root / "users.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return users


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def object_file(root: Path, sha256: str) -> Path:
    """The file with the content of that digest."""
    return root / "objects" / sha256


def _repository_file(root: Path, kind: Kind, repo_id: str) -> Path:
    return root / f"{kind}s" / f"{repo_id}.json"


def _store_file(root: Path, path: Path) -> StoredFile:
    """Copy a file into the objects and describe it."""
    size, sha256 = path.stat().st_size, _hash_file(path)
    lfs = path.suffix in LFS_SUFFIXES or size >= LFS_SIZE_BYTES
    target = object_file(root, sha256)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            shutil.copyfile(path, Path(scratch) / sha256).replace(target)
    blob_id = _git_blob_id(lfs_pointer(sha256, size) if lfs else path.read_bytes())
    return StoredFile(size=size, sha256=sha256, blob_id=blob_id, lfs=lfs)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer that git stores in place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _commit_id_of(files: dict[str, StoredFile]) -> str:
    listing = json.dumps(sorted((path, file.blob_id) for path, file in files.items()))
    return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file; readers never see partial content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
