"""Who may see what, and the refusals with the headers that the client tells its errors by."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from demo.hub.repository import Kind, Repository, load_repository, load_users


class RefusedError(Exception):
    """An error answer of the Hub's API: a status, a code where the Hub has one for it, and a message."""

    def __init__(self, status: int, code: str | None, message: str, commit_id: str | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit_id}
        self.status = status
        self.headers = {name: value for name, value in headers.items() if value is not None}


async def answer_refused(_: Request, refusal: Exception) -> Response:
    """Turn a `RefusedError` into the answer that it stands for."""
    assert isinstance(refusal, RefusedError)
    return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)


def identify_user(request: Request) -> str | None:
    """The name of the user whose token the request brings, None for a request without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    name = load_users(hub_root(request)).get(token)
    if name is None:
        raise RefusedError(401, None, "Invalid credentials in Authorization header")
    return name


def open_repository(request: Request) -> tuple[str, Repository]:
    """The repository that the request's path names, with its id; as on the Hub, an unseen one does not exist."""
    repo_id = f"{request.path_params['owner']}/{request.path_params['name']}"
    kind = _requested_kind(request)
    user = identify_user(request)
    repository = load_repository(hub_root(request), kind, repo_id) if kind else None
    if repository is None or (repository.private and user not in repository.readers):
        if user is None:
            raise RefusedError(401, "RepoNotFound", "Invalid username or password.")
        raise RefusedError(404, "RepoNotFound", "Repository not found")
    return repo_id, repository


def pass_gate(request: Request, repo_id: str, repository: Repository) -> None:
    """Refuse whoever may not download from a gated repository. What a gated repository holds is public."""
    user = identify_user(request)
    if not repository.gated or user in repository.readers:
        return
    restricted = f"Access to {_requested_kind(request)} {repo_id} is restricted"
    if user is None:
        message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
        raise RefusedError(401, "GatedRepo", message)
    raise RefusedError(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")


def _requested_kind(request: Request) -> Kind | None:
    """What the path asks for; a download's path without a kind means a model."""
    kinds: dict[str, Kind] = {"models": "model", "datasets": "dataset"}
    return kinds.get(request.path_params.get("kind", "models"))


def hub_root(request: Request) -> Path:
    """The folder that is served."""
    root: Path = request.app.state.root
    return root
