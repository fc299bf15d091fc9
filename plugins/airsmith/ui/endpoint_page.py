"""A page in Airflow's UI for each endpoint: what it serves, and the lines that ask it."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, FastAPI, Request
from fastapi.params import Depends
from fastapi.responses import HTMLResponse

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint
from airsmith.serving.chat import KEY_VARIABLE, curl_line, find_endpoint
from airsmith.settings import load_settings

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
  body {{ max-width: 60rem; margin: 3rem auto; padding: 0 1rem; }}
  pre {{ padding: 1rem; border: 1px solid #8886; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""

router = APIRouter()


def endpoint_pages(authorization: Depends) -> FastAPI:
    """The app with the page of each endpoint.

    :param authorization: dependency that every request must pass.
    """
    app = FastAPI(dependencies=[authorization], docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    app.add_exception_handler(AirsmithError, _error_page)
    return app


@router.get("/endpoints/{name}")
def show(name: str) -> HTMLResponse:
    """What an endpoint serves now, and how to ask it.

    :raises AirsmithError: `not_found` where there is no such endpoint, or the store's own.
    """
    endpoint = find_endpoint(Store.open(load_settings().store), name)
    body = [_paragraph(line) for line in _served(endpoint)]
    for intention, command in _commands(endpoint):
        body += [_paragraph(f"{intention}:"), f"<pre>{escape(command)}</pre>"]
    return _page(f"Endpoint {endpoint.name}", body)


def _error_page(_: Request, error: Exception) -> HTMLResponse:
    assert isinstance(error, AirsmithError)
    status = 503 if error.kind in (ErrorKind.STORE_UNAVAILABLE, ErrorKind.ACCESS_DENIED) else 404
    return _page(error.message, [_paragraph(error.hint)] if error.hint else [], status)


def _served(endpoint: Endpoint) -> list[str]:
    version = f" version {endpoint.version}" if endpoint.version is not None else ""
    place = f"in namespace {endpoint.namespace}" if endpoint.namespace else "as a process on the worker's machine"
    since = f"{endpoint.updated_at:%Y-%m-%d %H:%M} UTC"
    lines = [f"Serves {endpoint.model_name}{version} by {endpoint.engine}, {place}, as of {since}."]
    if endpoint.adapters:
        lines.append(f"Its adapters: {', '.join(sorted(endpoint.adapters))}.")
    if endpoint.candidate is not None:
        candidate = endpoint.candidate
        lines.append(f"Version {candidate.version} beside it takes {endpoint.candidate_percent} % of the requests.")
    return lines


def _commands(endpoint: Endpoint) -> list[tuple[str, str]]:
    """What a person types, each with what for."""
    inside = f"Inside the cluster of namespace {endpoint.namespace}" if endpoint.namespace else "On that machine"
    commands = [
        ("Talk to it, from anywhere" if endpoint.namespace else "Talk to it", f"airsmith chat {endpoint.name}"),
        (f"{inside}, ask it one question", curl_line(endpoint)),
    ]
    if endpoint.api_key is None:
        return commands
    secret, _, key = endpoint.api_key.partition("/")
    field = ".data." + key.replace(".", "\\.")
    read_key = f"kubectl --namespace {endpoint.namespace} get secret {secret} -o jsonpath='{{{field}}}' | base64 -d"
    return [("It wants a key", f"export {KEY_VARIABLE}=$({read_key})"), *commands]


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _page(title: str, body: list[str], status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), body="\n".join(body)), status)
