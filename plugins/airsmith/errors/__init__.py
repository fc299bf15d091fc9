"""The error kinds, the exception that carries a kind, and the retry rule of each kind."""

from airsmith.errors.error import AirsmithError, ErrorKind, root_cause

__all__ = ["AirsmithError", "ErrorKind", "root_cause"]
