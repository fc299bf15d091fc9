"""A page in Airflow's UI for each endpoint: what it serves, and the commands that query it."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, FastAPI, Request
from fastapi.params import Depends
from fastapi.responses import HTMLResponse

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint
from airsmith.serving.chat import KEY_VARIABLE, curl_command, find_endpoint
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
    """The FastAPI app that serves the pages.

    :param authorization: dependency that authorizes every request.
    """
    app = FastAPI(dependencies=[authorization], docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    app.add_exception_handler(AirsmithError, _error_page)
    return app


@router.get("/endpoints/{name}")
def show(name: str) -> HTMLResponse:
    """The page of an endpoint.

    :raises AirsmithError: `not_found` if the endpoint does not exist, or the store's error.
    """
    endpoint = find_endpoint(Store.open(load_settings().store), name)
    body = [_paragraph(line) for line in _description(endpoint)]
    for purpose, command in _commands(endpoint):
        body += [_paragraph(f"{purpose}:"), f"<pre>{escape(command)}</pre>"]
    return _page(f"Endpoint {endpoint.name}", body)


def _error_page(_: Request, error: Exception) -> HTMLResponse:
    assert isinstance(error, AirsmithError)
    status = 503 if error.kind in (ErrorKind.STORE_UNAVAILABLE, ErrorKind.ACCESS_DENIED) else 404
    return _page(error.message, [_paragraph(error.hint)] if error.hint else [], status)


def _description(endpoint: Endpoint) -> list[str]:
    current = endpoint.current
    version = f" version {current.version}" if current.version is not None else ""
    place = f"in namespace {current.namespace}" if current.namespace else "as a process on the worker's machine"
    since = f"{endpoint.updated_at:%Y-%m-%d %H:%M} UTC"
    lines = [f"Serves {current.model_name}{version} with {current.engine}, {place}. Updated {since}."]
    if current.adapters:
        lines.append(f"Adapters: {', '.join(sorted(current.adapters))}.")
    if endpoint.canary is not None:
        lines.append(f"Canary: version {endpoint.canary.version} receives {endpoint.canary_percent} % of the requests.")
    return lines


def _commands(endpoint: Endpoint) -> list[tuple[str, str]]:
    """Commands to copy, each with its purpose."""
    current = endpoint.current
    place = f"inside the cluster of namespace {current.namespace}" if current.namespace else "on that machine"
    commands = [
        ("Chat from any machine" if current.namespace else "Chat", f"airsmith chat {endpoint.name}"),
        (f"Send one request {place}", curl_command(endpoint)),
    ]
    if current.api_key is None:
        return commands
    secret, _, key = current.api_key.partition("/")
    field = ".data." + key.replace(".", "\\.")
    read_key = f"kubectl --namespace {current.namespace} get secret {secret} -o jsonpath='{{{field}}}' | base64 -d"
    return [("API key required", f"export {KEY_VARIABLE}=$({read_key})"), *commands]


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _page(title: str, body: list[str], status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), body="\n".join(body)), status)
