"""The errors a person can cause and mend: each is one line that says what is wrong and what to do.

Each class knows the exit code the command line ends with (the README has the table).
"""


class AdvimgError(Exception):
    """Something expected failed; nothing was written. The message is one line for a person."""

    exit_code = 1


class UsageError(AdvimgError, ValueError):
    """An option or argument makes no sense: unknown class, ε out of range, two options that exclude each other."""

    exit_code = 2


class PhotoError(AdvimgError):
    """The photo cannot be read, or is of a kind or size that cannot be attacked."""


class OutputError(AdvimgError):
    """A result cannot be written where it was asked for."""


class DiskError(OutputError):
    """The disk takes no more files: it is full, over quota, read-only or gone."""


class DeviceError(AdvimgError):
    """A device gave up, or the process that used it, and there is no other."""


class ClassifierError(AdvimgError):
    """The classifier cannot be loaded, or does not behave like one."""


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error that others raised, short enough for a message of one line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
