"""Uploads and downloads on S3 survive broken connections."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from airsmith.artifacts.store import MEBIBYTE, Store
from airsmith.errors import AirsmithError, ErrorKind


@pytest.fixture
def store(s3_uri: str) -> Store:
    return Store.open(s3_uri)


class CuttingProxy:
    """A TCP proxy that cuts the first connections after some bytes.

    :param cuts: how many connections are cut.
    :param up_bytes: bytes from the client after which a connection is cut.
    :param down_bytes: bytes from the server after which a connection is cut.
    """

    def __init__(self, upstream: str, cuts: int, up_bytes: int | None = None, down_bytes: int | None = None) -> None:
        self.cuts, self.up_bytes, self.down_bytes = cuts, up_bytes, down_bytes
        self.cut_connections = 0
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            for ends, limit in (((client, server), self.up_bytes), ((server, client), self.down_bytes)):
                threading.Thread(target=self._pump, args=(*ends, limit), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit and self._may_cut():
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _may_cut(self) -> bool:
        with self._lock:
            if self.cut_connections >= self.cuts:
                return False
            self.cut_connections += 1
            return True


@pytest.fixture
def open_through_proxy(
    s3_uri: str, s3_server: Any, use_s3: Callable[[str], None]
) -> Iterator[Callable[..., tuple[Store, CuttingProxy]]]:
    proxies: list[CuttingProxy] = []

    def open_store(**limits: int) -> tuple[Store, CuttingProxy]:
        proxies.append(CuttingProxy(s3_server.endpoint, **limits))
        use_s3(proxies[-1].endpoint)
        return Store.open(s3_uri), proxies[-1]

    yield open_store
    for proxy in proxies:
        proxy.stop()


UNLIMITED = 10**9
CONTENT = [hashlib.sha256(str(n).encode()).digest() * (MEBIBYTE // 32) for n in range(20)]


def test_a_download_resumes_after_a_broken_connection(store: Store, open_through_proxy: Any) -> None:
    store.upload("a", CONTENT)
    proxied, proxy = open_through_proxy(cuts=3, down_bytes=4 * MEBIBYTE)
    assert b"".join(proxied.stream("a", chunk_bytes=MEBIBYTE)) == b"".join(CONTENT)
    assert proxy.cut_connections == 3


def test_an_upload_resends_what_was_lost(store: Store, open_through_proxy: Any) -> None:
    proxied, proxy = open_through_proxy(cuts=2, up_bytes=2 * MEBIBYTE)
    assert proxied.upload("a", CONTENT) == 20 * MEBIBYTE
    assert proxy.cut_connections == 2
    assert store.read("a") == b"".join(CONTENT)


@pytest.mark.parametrize("size", [1, 20], ids=["one request", "parts"])
def test_an_upload_whose_connections_all_break_leaves_nothing(
    store: Store, short_deadline: None, open_through_proxy: Any, size: int
) -> None:
    proxied, proxy = open_through_proxy(cuts=UNLIMITED, up_bytes=MEBIBYTE // 2)
    with pytest.raises(AirsmithError, match=proxy.endpoint) as failure:
        proxied.upload("a", CONTENT[:size])
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert list(store.list("")) == []


def test_a_download_whose_connections_all_break_fails(
    store: Store, short_deadline: None, open_through_proxy: Any
) -> None:
    store.upload("a", CONTENT)
    proxied, proxy = open_through_proxy(cuts=UNLIMITED, down_bytes=1000)
    with pytest.raises(AirsmithError, match=proxy.endpoint) as failure:
        proxied.read("a")
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE
