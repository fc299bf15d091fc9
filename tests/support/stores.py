"""Empty stores of every kind: a local folder, memory, and S3.

S3 is moto's server in this process, and also the server that AIRSMITH_TEST_S3_ENDPOINT names, with its keys in AWS_*.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

BUCKET = "airsmith-test"
REAL_ENDPOINT = os.environ.get("AIRSMITH_TEST_S3_ENDPOINT", "")
S3_KINDS = ["s3", "minio"] if REAL_ENDPOINT else ["s3"]

Fault = Callable[[Any, Callable[[], Any]], Any]
"""Maps a werkzeug request, and a function that returns the real response, to the response that the client receives."""


class S3Server:
    """moto's S3 in this process.

    It handles one request at a time, because moto decides a conditional put in several steps, and S3 in one.

    :ivar fault: replaces responses.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.fault: Fault | None = None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        handler = type("Handler", (WSGIRequestHandler,), {"log_request": lambda *_: None})
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True, request_handler=handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Any:
        from werkzeug.wrappers import Request, Response

        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) < length:
            return Response(status=400)(environ, start_response)
        environ["wsgi.input"] = BytesIO(body)

        def real() -> Response:
            environ["wsgi.input"].seek(0)
            with self._lock:
                return Response.from_app(self._app, environ)

        request = Request(environ, populate_request=False)
        response = self.fault(request, real) if self.fault is not None else real()
        return response(environ, start_response)


def s3_variables(endpoint: str) -> dict[str, str]:
    """Variables that point this process's S3 clients at an endpoint; keys that are already set stay."""
    defaults = {"AWS_ACCESS_KEY_ID": "minioadmin", "AWS_SECRET_ACCESS_KEY": "minioadmin", "AWS_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": endpoint, **{name: os.environ.get(name, value) for name, value in defaults.items()}}


def make_bucket(endpoint: str) -> None:
    import boto3

    keys = {
        "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    client = boto3.client("s3", endpoint_url=endpoint, region_name=os.environ["AWS_REGION"], **keys)
    if BUCKET not in (bucket["Name"] for bucket in client.list_buckets()["Buckets"]):
        client.create_bucket(Bucket=BUCKET)
