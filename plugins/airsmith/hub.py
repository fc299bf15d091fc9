"""Requests to the Hugging Face Hub that both Airflow and the stages make, and the errors they raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Literal

from airsmith.errors import AirsmithError, ErrorKind

RepoType = Literal["model", "dataset"]

TIMEOUT_SECONDS = 10.0
"""Timeout of one request to the Hub."""


def pinned_revision(repo_type: RepoType, repo_id: str, revision: str, *, endpoint: str, token: str | None) -> str:
    """Resolve a branch, tag or commit to a commit, and verify read access to its files.

    :raises AirsmithError: `not_found`, `access_denied` or `hub_unavailable`, naming the repository and the remedy.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    with hub_errors(repo_type, repo_id, revision, endpoint):
        api = HfApi(endpoint, token=token)
        ask = api.model_info if repo_type == "model" else api.dataset_info
        info = ask(repo_id, revision=revision, timeout=TIMEOUT_SECONDS)
        if info.sha is None or not info.siblings:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The {repo_type} {repo_id} has no files at revision {revision!r} on {endpoint}.",
                f"Check {repo_type}.id and {repo_type}.revision.",
            )
        # Anyone can list a gated repository; only a file request shows whether the token grants access.
        first_file = hf_hub_url(
            repo_id, info.siblings[0].rfilename, repo_type=repo_type, revision=info.sha, endpoint=endpoint
        )
        get_hf_file_metadata(first_file, token=api.token, timeout=TIMEOUT_SECONDS, endpoint=endpoint)
    return str(info.sha)


def read_model_file(repo_id: str, revision: str, name: str, *, endpoint: str, token: str | None) -> bytes:
    """Read a small file of a model repository.

    :raises AirsmithError: `not_found`, `access_denied` or `hub_unavailable`, naming the repository and the remedy.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(repo_id, name, revision=revision, endpoint=endpoint)
    with hub_errors("model", repo_id, revision, endpoint):
        try:
            response = get_session().get(
                url, headers=build_hf_headers(token=token), timeout=TIMEOUT_SECONDS, follow_redirects=True
            )
            hf_raise_for_status(response)
        except EntryNotFoundError as error:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The model {repo_id} has no {name} at revision {revision!r} on {endpoint}.",
                "Check model.id and model.revision.",
            ) from error
    return bytes(response.content)


@contextmanager
def hub_errors(repo_type: RepoType, repo_id: str, revision: str, endpoint: str) -> Iterator[None]:
    """Convert exceptions of the Hub's client to errors that name the recipe field and the remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.errors import HTTPError as AnyHttpError  # type: ignore[attr-defined]

    try:
        yield
    except GatedRepoError as error:
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The {repo_type} {repo_id} is gated, and no token with access was given.",
            f"Accept its terms on {endpoint}, and set secrets.hf_token to a token of that account.",
        ) from error
    except RevisionNotFoundError as error:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"The {repo_type} {repo_id} has no revision {revision!r} on {endpoint}.",
            f"Set {repo_type}.revision to a branch, tag or commit that exists, for example main.",
        ) from error
    except RepositoryNotFoundError as error:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"The {repo_type} {repo_id} does not exist on {endpoint}, or is private.",
            f"Check {repo_type}.id; for a private repository, set secrets.hf_token to a token with read access.",
        ) from error
    except HFValidationError as error:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"{repo_type}.id {repo_id!r} is not a valid Hub id: {error}.",
            "Use the form owner/name.",
        ) from error
    except AnyHttpError as error:
        raise _other_error(repo_type, repo_id, endpoint, error) from error


def _other_error(repo_type: RepoType, repo_id: str, endpoint: str, error: Exception) -> AirsmithError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"{endpoint} rejected the token for the {repo_type} {repo_id} (HTTP {status}).",
            "Set secrets.hf_token to a valid token with read access.",
        )
    cause = f"HTTP {status}" if status else str(error) or type(error).__name__
    return AirsmithError(
        ErrorKind.HUB_UNAVAILABLE,
        f"The request for the {repo_type} {repo_id} to {endpoint} failed: {cause}.",
        "Try again later, or check the setting hub_endpoint and the network connection.",
    )
