"""What object stores raise, in the words of the closed list of errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from airsmith.contracts.errors import AirsmithError, ErrorKind

_OS_ERROR = re.compile(r"os error (\d+)")
_DENIED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|status: 40[13]|\b40[13] (Forbidden|Unauthorized)"
)


@contextmanager
def store_errors(uri: str, path: str) -> Iterator[None]:
    """Raise an AirsmithError in place of the store's own exception.

    :param uri: the store.
    :param path: the object in it.
    """
    try:
        yield
    except (BaseError, OSError) as failure:
        raise _translated(failure, uri, path) from failure


def _translated(failure: Exception, uri: str, path: str) -> AirsmithError:
    text = str(failure)
    reason = text.split("\n", 1)[0]
    number = _os_error_number(failure, text)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return AirsmithError(
            ErrorKind.DISK_FULL,
            f"The disk of the store {uri} is full: {path} could not be written.",
            "Free space there, or set AIRSMITH_STORE to a store with more room.",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The store {uri} does not allow this: {path}: {reason}.",
            "Give this user the right to read and write the store's folder.",
        )
    if "NoSuchBucket" in text:
        return AirsmithError(
            ErrorKind.NOT_FOUND, f"The bucket of {uri} does not exist.", "Create it, or correct AIRSMITH_STORE."
        )
    if isinstance(failure, FileNotFoundError):
        return AirsmithError(ErrorKind.NOT_FOUND, f"There is no {path} in the store {uri}.", "")
    if isinstance(failure, (PermissionDeniedError, UnauthenticatedError)) or _DENIED.search(text):
        return AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The store {uri} refuses access to {path}: {reason}.",
            "Check the credentials in the environment and what they may do on this bucket.",
        )
    return AirsmithError(
        ErrorKind.STORE_UNAVAILABLE,
        f"The store {uri} did not do what was asked for {path}: {reason}.",
        "Check that it is up and reached from here (AIRSMITH_STORE, AWS_ENDPOINT_URL), then run again.",
    )


def _os_error_number(failure: Exception, text: str) -> int | None:
    if isinstance(failure, OSError) and failure.errno is not None:
        return failure.errno
    found = _OS_ERROR.search(text)
    return int(found.group(1)) if found else None
