"""The closed list of failure kinds, the exception that carries one, and what to do about each kind."""

from airsmith.errors.error import AirsmithError, ErrorKind, most_telling

__all__ = ["AirsmithError", "ErrorKind", "most_telling"]
