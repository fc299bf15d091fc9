"""Convert the exceptions of stores and disks to AirsmithError."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from airsmith.errors import AirsmithError, ErrorKind

_STATUS = re.compile(r"status code: (\d{3}) ([A-Za-z ]+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})")
_OS_MESSAGE = re.compile(r'message: "([^"\n]{1,200})"')
_METADATA_SERVICE = re.compile(r"/latest/(api/token|meta-data)")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_INVALID_PATH = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


@contextmanager
def store_errors(
    address: str, path: str, needed_bytes: int | None = None, free_bytes: Callable[[], int | None] = lambda: None
) -> Iterator[None]:
    """Raise an AirsmithError in place of a store's own exception.

    :param address: the store and its location.
    :param path: the object in the store.
    :param needed_bytes: size of the object that is being written, if known.
    :param free_bytes: returns the free space of the store, None if unknown.
    """
    try:
        yield
    except FileNotFoundError as failure:
        raise _from_not_found(failure, address, path) from failure
    except OSError as failure:
        hint = "Free up space there, or set AIRSMITH_STORE to a store with more space."
        space = _space(needed_bytes, free_bytes) if failure.errno in _FULL else ""
        raise _from_os(failure, f"the store {address}", path, space, hint) from failure
    except BaseError as failure:
        raise _from_server(failure, address, path) from failure


@contextmanager
def local_errors(folder: Path, name: str, needed_bytes: int) -> Iterator[None]:
    """Raise an AirsmithError in place of an OSError of the local disk.

    :param needed_bytes: size of the file that is being written.
    """
    try:
        yield
    except OSError as failure:
        hint = "Free up space there, or set TMPDIR to a folder on a larger disk."
        space = _space(needed_bytes, lambda: None)
        raise _from_os(failure, f"the folder {folder}", name, space, hint) from failure


def is_transient(failure: BaseError) -> bool:
    """Whether a retry of the request may succeed."""
    status = _STATUS.search(str(failure))
    if status is None:
        return not _METADATA_SERVICE.search(str(failure))
    return status[1] in ("408", "429", "500", "502", "503", "504")


def is_missing_bucket(failure: FileNotFoundError) -> bool:
    """Whether the bucket is missing, not only the object."""
    return "NoSuchBucket" in str(failure)


def is_missing_upload(failure: FileNotFoundError) -> bool:
    """Whether a multipart upload is missing: completed, aborted or never started."""
    return "NoSuchUpload" in str(failure)


def _from_not_found(failure: FileNotFoundError, address: str, path: str) -> AirsmithError:
    if is_missing_bucket(failure):
        return AirsmithError(
            ErrorKind.NOT_FOUND,
            f"The bucket of the store {address} does not exist.",
            "Create it, or correct AIRSMITH_STORE or AWS_ENDPOINT_URL.",
        )
    if is_missing_upload(failure):
        return AirsmithError(
            ErrorKind.STORE_UNAVAILABLE,
            f"The store {address} aborted the upload of {path} before it was complete.",
            "Run again; if the error persists, check the bucket's lifecycle rule for incomplete uploads.",
        )
    return AirsmithError(ErrorKind.NOT_FOUND, f"{path} does not exist in the store {address}.", "Check the path.")


def _from_os(failure: OSError, place: str, path: str, space: str, space_hint: str) -> AirsmithError:
    reason = failure.strerror or str(failure)
    path = path or "its listing"
    if failure.errno in _FULL:
        return AirsmithError(
            ErrorKind.DISK_FULL, f"The disk of {place} has no space for {path}{space}: {reason}.", space_hint
        )
    if failure.errno in _DENIED:
        folder = _folder_of(failure) or place
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"This process has no access to {path} in {place}: {reason} at {folder}.",
            f"Grant its user read and write access to {folder}, or use another folder.",
        )
    if failure.errno in _INVALID_PATH:
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"{path[:200]} cannot be written to {place}: {reason}.",
            "Rename the file: a path cannot be both a file and a folder, and no part of it may exceed 255 bytes.",
        )
    return AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"{place[0].upper()}{place[1:]} failed at {_folder_of(failure) or path}: {reason}.",
        "Check the disk, then run again.",
    )


def _folder_of(failure: OSError) -> str | None:
    """The folder that an OSError refers to: the path in the error, or its parent."""
    if failure.filename is None:
        return None
    named = os.fsdecode(failure.filename)
    return named if os.path.isdir(named) else os.path.dirname(named)  # noqa: PTH112, PTH120 (Path.is_dir raises)


def _from_server(failure: BaseError, address: str, path: str) -> AirsmithError:
    text = str(failure)
    code = _CODE.search(text)
    status = _STATUS.search(text)
    reason = _reason(text)
    if _METADATA_SERVICE.search(text):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"There are no credentials for the store {address}, in the environment or from the machine's identity.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod an identity.",
        )
    if isinstance(failure, (PermissionDeniedError, UnauthenticatedError)) or (status and status[1] in ("401", "403")):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The store {address} denied access to {path or 'its listing'}: {reason}.",
            "Check the credentials in the environment and their permissions on the bucket.",
        )
    if code and code[1] == "NoSuchBucket":
        return _from_not_found(FileNotFoundError(text), address, path)
    if code and code[1] == "KeyTooLongError":
        return AirsmithError(
            ErrorKind.VERIFICATION_FAILED, f"{path[:200]} is too long for the store {address}.", "Use a shorter name."
        )
    if (status and status[1] == "507") or (code and code[1] in ("XMinioStorageFull", "QuotaExceeded")):
        return AirsmithError(
            ErrorKind.DISK_FULL,
            f"The store {address} has no space for {path}: {reason}.",
            "Free up space there, or set AIRSMITH_STORE to a store with more space.",
        )
    return AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"A request to the store {address} for {path or 'its listing'} failed: {reason}.",
        "Check that it is running and reachable (AIRSMITH_STORE, AWS_ENDPOINT_URL), then run again; on a slow network, "
        "increase AIRSMITH_STORE_DEADLINE_SECONDS.",
    )


def _reason(text: str) -> str:
    """The cause in an exception's text, which has many lines and ends with the server's XML or a tree of causes."""
    status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
    if status is not None:
        details = ": ".join(found[1] for found in (code, message) if found)
        return f"{status[1]} {status[2].strip()}" + (f", {details}" if details else "")
    os_message = _OS_MESSAGE.search(text)
    if os_message is not None:
        return os_message[1]
    if "dns error" in text:
        return "the host name cannot be resolved"
    if "TimedOut" in text or "kind: Timeout" in text:
        return "no response before the timeout"
    return text.split("\n", 1)[0][:300]


def _space(needed_bytes: int | None, free_bytes: Callable[[], int | None]) -> str:
    try:
        free = free_bytes()
    except OSError:
        free = None
    parts = [] if needed_bytes is None else [f"{_format_bytes(needed_bytes)} needed"]
    parts += [] if free is None else [f"{_format_bytes(free)} free"]
    return f" ({', '.join(parts)})" if parts else ""


def _format_bytes(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
