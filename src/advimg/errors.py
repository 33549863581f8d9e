"""The errors a person can cause and mend, and the exit codes of the command line (the README has the table).

Each message is one line that says what is wrong and what to do.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_REACHED = 3
    """The best attempt is written, but it is not the target; or a file does not keep the promise."""
    NOT_ROBUST = 4
    """A classifier is less robust than was asked for."""
    INTERRUPTED = 130


class AdvimgError(Exception):
    """Something expected failed; nothing was written. The message is one line for a person."""

    exit_code = ExitCode.FAILED


class UsageError(AdvimgError, ValueError):
    """An option or argument makes no sense: unknown class, ε out of range, two options that exclude each other."""

    exit_code = ExitCode.USAGE


class RecordError(AdvimgError, ValueError):
    """What is to be read as a record is none."""


class PhotoError(AdvimgError):
    """The photo cannot be read, or is of a kind or size that cannot be attacked."""


class OutputError(AdvimgError):
    """A result cannot be written where it was asked for."""


class TakenError(OutputError):
    """There is a file already where a result is to be written, and it is not to be replaced."""


class DiskError(OutputError):
    """The disk takes no more files: it is full, over quota, read-only or gone."""


class DeviceError(AdvimgError):
    """A device gave up, or the process that used it, and there is no other."""


class ClassifierError(AdvimgError):
    """The classifier cannot be loaded, or does not behave like one."""


class PluginError(AdvimgError):
    """What another distribution brings cannot be used: it cannot be imported, or is not what it is brought as."""


def unreadable(what: object, error: Exception) -> str:
    """Return the line that says why a file cannot be read: what the system says, where it says anything."""
    return f"{what} cannot be read: {getattr(error, 'strerror', None) or error}"


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error that others raised, short enough for a message of one line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
