"""What can go wrong, as exceptions: one class for each of the engine's error codes that programs tell apart."""

from __future__ import annotations


class Error(Exception):
    """Anything the engine refuses or fails at. The message says what was wrong, where, and what to do."""

    code: str = "internal"
    """The engine's name of the error: "invalid_argument", "not_found", "corrupt", "unsupported", "out_of_memory", …"""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class InvalidArgument(Error, ValueError):
    """The caller's value is wrong."""

    code = "invalid_argument"


class NotFound(Error, FileNotFoundError):
    """A file or tensor that does not exist."""

    code = "not_found"


class CorruptData(Error):
    """A file contradicts its own format."""

    code = "corrupt"


class Unsupported(Error):
    """Well formed, and something the engine does not do."""

    code = "unsupported"


class OutOfMemory(Error, MemoryError):
    """Would not fit: said before anything is allocated."""

    code = "out_of_memory"


class Unavailable(Error):
    """The model is closed, or one of its ranks is lost."""

    code = "unavailable"


_BY_CODE = {cls.code: cls for cls in (InvalidArgument, NotFound, CorruptData, Unsupported, OutOfMemory, Unavailable)}


def from_code(code: str, message: str) -> Error:
    """The exception for one of the engine's errors."""
    cls = _BY_CODE.get(code, Error)
    return cls(message, code)
