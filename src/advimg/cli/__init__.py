"""The command line: one file a command. Only this folder knows click and rich; torch is imported inside commands."""

import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from advimg.errors import AdvimgError, ExitCode
from advimg.formatting import printable


def main() -> NoReturn:
    """Run the command that ``sys.argv`` names and exit with its code."""
    # So that a terminated process cleans up behind itself like one that is interrupted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; expected errors become one line on stderr."""
    # Looked up here because an error can come before the options are parsed; --debug can be set elsewhere, too.
    state = {"debug": "--debug" in arguments}
    try:
        return _run(list(arguments), state)
    except KeyboardInterrupt:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except Exception as error:
        if state["debug"]:
            raise
        if isinstance(error, AdvimgError):
            return _fail(str(error), error.exit_code)
        return _fail(_unexpected(error), ExitCode.FAILED)


def _run(arguments: list[str], state: dict[str, bool]) -> int:
    import click

    from advimg.cli.app import app

    if not state["debug"]:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that make no difference here
    try:
        code = app.main(arguments, prog_name="advimg", standalone_mode=False, obj=state)
    except click.Abort:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "advimg"
        return _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    return code if isinstance(code, int) else ExitCode.OK


def _fail(message: str, code: int) -> int:
    if sys.stderr is not None:  # closed by the caller
        print(f"advimg: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _unexpected(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or text}"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return "out of memory; try a smaller photo or --device cpu"
    return f"unexpected {type(error).__name__}: {text or 'no message'} (--debug shows where)"
