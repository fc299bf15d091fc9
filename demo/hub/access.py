"""Access control, and error responses with the headers that the client derives its exceptions from."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from demo.hub.repository import Kind, Repository, load_repository, load_users


class HubError(Exception):
    """An error response of the Hub's API.

    :param code: the Hub's error code; None if it has none for this error.
    """

    def __init__(self, status: int, code: str | None, message: str, commit_id: str | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit_id}
        self.status = status
        self.headers = {name: value for name, value in headers.items() if value is not None}


async def error_response(_: Request, error: Exception) -> Response:
    """The response for a `HubError`."""
    assert isinstance(error, HubError)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


def identify_user(request: Request) -> str | None:
    """The name of the user whose token the request contains; None if it contains no token."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    name = load_users(hub_root(request)).get(token)
    if name is None:
        raise HubError(401, None, "Invalid credentials in Authorization header")
    return name


def open_repository(request: Request) -> tuple[str, Repository]:
    """The repository in the request's path, with its id.

    As on the Hub, a repository that the user may not see does not exist.
    """
    repo_id = f"{request.path_params['owner']}/{request.path_params['name']}"
    kind = _requested_kind(request)
    user = identify_user(request)
    repository = load_repository(hub_root(request), kind, repo_id) if kind else None
    if repository is None or (repository.private and user not in repository.readers):
        if user is None:
            raise HubError(401, "RepoNotFound", "Invalid username or password.")
        raise HubError(404, "RepoNotFound", "Repository not found")
    return repo_id, repository


def require_download_access(request: Request, repo_id: str, repository: Repository) -> None:
    """Raise an error if the user may not download from a gated repository. Its metadata is public."""
    user = identify_user(request)
    if not repository.gated or user in repository.readers:
        return
    restricted = f"Access to {_requested_kind(request)} {repo_id} is restricted"
    if user is None:
        message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
        raise HubError(401, "GatedRepo", message)
    raise HubError(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")


def _requested_kind(request: Request) -> Kind | None:
    """The kind in the path; the download path of a model contains none."""
    kinds: dict[str, Kind] = {"models": "model", "datasets": "dataset"}
    return kinds.get(request.path_params.get("kind", "models"))


def hub_root(request: Request) -> Path:
    """The folder that the Hub serves."""
    root: Path = request.app.state.root
    return root
