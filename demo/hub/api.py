"""The local Hub's HTTP API, with the responses that `huggingface_hub` expects."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from demo.hub.access import (
    HubError,
    error_response,
    hub_root,
    identify_user,
    open_repository,
    require_download_access,
)
from demo.hub.repository import Commit, Repository, StoredFile, lfs_pointer, object_file

TREE_PAGE_ENTRIES = 1000  # the Hub's page size


def build_app(root: Path, storage_port: int) -> ASGIApp:
    """The application that serves the repositories under `root`.

    :param storage_port: the port that LFS files are redirected to. It must differ from the API's port: the client
        reads a file's metadata from the redirect only if it leads to another origin.
    """
    repo = "/api/{kind}/{owner}/{name}"
    routes = [
        Route("/api/whoami-v2", _who_am_i),
        Route(repo, _repo_info),
        Route(repo + "/revision/{revision}", _repo_info),
        Route(repo + "/tree/{revision}", _list_tree),
        Route(repo + "/tree/{revision}/{path:path}", _list_tree),
        Route(repo + "/paths-info/{revision}", _describe_paths, methods=["POST"]),
        Route(repo + "/refs", _list_refs),
        Route(repo + "/auth-check", _check_access),
        Route("/{owner}/{name}/resolve/{revision}/{path:path}", _resolve_file),
        Route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", _resolve_file),
        Route("/_storage/{sha256}/{name}", _send_stored_file),
    ]
    app = Starlette(routes=routes, exception_handlers={HubError: error_response})
    app.state.root = root
    app.state.storage_port = storage_port
    app.state.signing_key = secrets.token_bytes(16)
    return _route_by_escaped_path(app)


def _route_by_escaped_path(app: ASGIApp) -> ASGIApp:
    """Route by the undecoded path: the escaped slashes in a revision such as `refs%2Fpr%2F1` are not separators."""

    async def escaped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        await app(scope, receive, send)

    return escaped


async def _who_am_i(request: Request) -> Response:
    user = identify_user(request)
    if user is None:
        raise HubError(401, None, "Invalid username or password.")
    return JSONResponse({"type": "user", "name": user, "fullname": user, "orgs": []})


async def _repo_info(request: Request) -> Response:
    repo_id, repository = open_repository(request)
    commit_id, commit = _requested_commit(request, repository)
    blobs = request.query_params.get("blobs") == "true"
    info: dict[str, Any] = {
        "author": request.path_params["owner"],
        "sha": commit_id,
        "createdAt": min(commit.created_at for commit in repository.commits.values()),
        "lastModified": commit.created_at,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": sum(file.size for file in commit.files.values()),
        "siblings": [_describe_sibling(path, file, blobs) for path, file in commit.files.items()],
    }
    requested = request.query_params.getlist("expand")
    if requested:
        info = {key: value for key, value in info.items() if key in requested}
    return JSONResponse({"_id": commit_id[:24], "id": repo_id, **info})


async def _list_tree(request: Request) -> Response:
    _, repository = open_repository(request)
    commit_id, commit = _requested_commit(request, repository)
    folder = unquote(request.path_params.get("path", ""))
    recursive, expand = (request.query_params.get(name) == "true" for name in ("recursive", "expand"))
    entries = list(_walk_tree(commit, folder, recursive))
    if not entries:
        raise _missing_entry(folder, commit_id)
    start = int(request.query_params.get("cursor", 0))
    end = start + int(request.query_params.get("limit", TREE_PAGE_ENTRIES))
    page = [_describe_entry(path, commit_id, commit, expand) for path in entries[start:end]]
    more = {"Link": f'<{request.url.include_query_params(cursor=end)}>; rel="next"'} if end < len(entries) else {}
    return JSONResponse(page, headers=more)


async def _describe_paths(request: Request) -> Response:
    _, repository = open_repository(request)
    commit_id, commit = _requested_commit(request, repository)
    form = parse_qs((await request.body()).decode())
    expand = form.get("expand") == ["true"]
    known = [path for path in form.get("paths", []) if path in {*_walk_tree(commit, "", recursive=True)}]
    return JSONResponse([_describe_entry(path, commit_id, commit, expand) for path in known])


async def _list_refs(request: Request) -> Response:
    _, repository = open_repository(request)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_id}
        for name, commit_id in repository.branches.items()
    ]
    return JSONResponse({"branches": branches, "converts": [], "tags": [], "pullRequests": []})


async def _check_access(request: Request) -> Response:
    require_download_access(request, *open_repository(request))
    return Response()


async def _resolve_file(request: Request) -> Response:
    """A file by revision and path: a small file directly, an LFS file as a redirect to the storage."""
    repo_id, repository = open_repository(request)
    require_download_access(request, repo_id, repository)
    commit_id, commit = _requested_commit(request, repository)
    path = unquote(request.path_params["path"])
    file = commit.files.get(path)
    if file is None:
        raise _missing_entry(path, commit_id)
    headers = {"X-Repo-Commit": commit_id, "ETag": f'"{file.etag}"'}
    if not file.lfs:
        return FileResponse(object_file(hub_root(request), file.sha256), headers=headers)
    linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.etag}"'}
    return RedirectResponse(_storage_url(request, file, path), status_code=302, headers={**headers, **linked})


async def _send_stored_file(request: Request) -> Response:
    """Content by its sha256, whole or a range; requires a signed URL."""
    sha256 = request.path_params["sha256"]
    if not hmac.compare_digest(request.query_params.get("signature", ""), _sign(request, sha256)):
        raise HubError(403, None, "The URL's signature is invalid.")
    return FileResponse(object_file(hub_root(request), sha256), headers={"ETag": f'"{sha256}"'})


def _storage_url(request: Request, file: StoredFile, path: str) -> str:
    host = f"{request.url.hostname}:{request.app.state.storage_port}"
    name = quote(PurePosixPath(path).name)
    return f"{request.url.scheme}://{host}/_storage/{file.sha256}/{name}?signature={_sign(request, file.sha256)}"


def _sign(request: Request, sha256: str) -> str:
    return hmac.new(request.app.state.signing_key, sha256.encode(), hashlib.sha256).hexdigest()


def _requested_commit(request: Request, repository: Repository) -> tuple[str, Commit]:
    revision = unquote(request.path_params.get("revision", "main"))
    commit_id = repository.resolve(revision)
    if commit_id is None:
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit_id, repository.commits[commit_id]


def _missing_entry(path: str, commit_id: str) -> HubError:
    return HubError(404, "EntryNotFound", f"{path} does not exist", commit_id)


def _walk_tree(commit: Commit, folder: str, recursive: bool) -> Iterator[str]:
    """The paths of files and folders under `folder`, each folder before its content."""
    top = PurePosixPath(folder)
    paths = {PurePosixPath(path) for path in commit.files}
    paths |= {parent for path in paths for parent in path.parents if parent.name}
    for path in sorted(paths):
        if path.parent == top or (recursive and top in path.parents):
            yield str(path)


def _describe_entry(path: str, commit_id: str, commit: Commit, expand: bool) -> dict[str, Any]:
    """An entry of a tree listing; `expand` adds its last commit."""
    last_commit = {"id": commit_id, "title": "Publish", "date": commit.created_at}
    extra = {"lastCommit": last_commit} if expand else {}
    file = commit.files.get(path)
    if file is None:
        oid = hashlib.sha1(f"{commit_id}/{path}".encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "path": path, "size": 0, **extra}
    lfs = {"lfs": {"oid": file.sha256, **_describe_lfs(file)}} if file.lfs else {}
    return {"type": "file", "oid": file.blob_id, "path": path, "size": file.size, **lfs, **extra}


def _describe_sibling(path: str, file: StoredFile, blobs: bool) -> dict[str, Any]:
    """A file in the repository info; `blobs` adds sizes and digests."""
    if not blobs:
        return {"rfilename": path}
    lfs = {"lfs": {"sha256": file.sha256, **_describe_lfs(file)}} if file.lfs else {}
    return {"rfilename": path, "size": file.size, "blobId": file.blob_id, **lfs}


def _describe_lfs(file: StoredFile) -> dict[str, int]:
    return {"size": file.size, "pointerSize": len(lfs_pointer(file.sha256, file.size))}
