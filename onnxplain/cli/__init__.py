"""The command line: ``main`` runs a verb and turns whatever happens into a sentence and an exit status."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from onnxplain.cli.interrupts import interrupts_at_safe_places
from onnxplain.errors import FailureError, OnnxplainError, UnsupportedError, UsageError

INTERRUPTED = 130

_KINDS = {
    FailureError.exit_status: "failure",
    UsageError.exit_status: "usage",
    UnsupportedError.exit_status: "unsupported",
    INTERRUPTED: "interrupted",
}


@interrupts_at_safe_places()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status: 0 done, 1 failure, 2 usage, 3 unsupported model, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = words[: words.index("--")] if "--" in words else words
    try:
        from onnxplain.cli.app import app

        status = int(app(args=words, prog_name="onnxplain", standalone_mode=False) or 0)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        return status
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in options:
            traceback.print_exc()
        status, message = _sentence(error)
        return _report(status, message, as_json="--json" in options)


def _sentence(error: BaseException) -> tuple[int, str]:
    """Exit status and message for whatever ended a verb."""
    from typer import TyperException

    if _interrupted(error):
        return INTERRUPTED, "interrupted"
    match error:
        case OnnxplainError():
            return error.exit_status, str(error)
        case TyperException():
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "onnxplain"
            message = " ".join(error.format_message().split()).rstrip(".")
            return UsageError.exit_status, f"{message}; see {command} --help"
        case MemoryError():
            detail = f" ({error})" if str(error) else ""
            return FailureError.exit_status, f"the memory does not suffice{detail}; try a smaller --batch-size"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return FailureError.exit_status, where + (error.strerror or str(error))
        case _:
            reason = f"{type(error).__name__}: {error}"
            return FailureError.exit_status, f"internal error, a bug in onnxplain ({reason}); --debug shows where"


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error; extension modules that it hits while they load make an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _report(status: int, message: str, as_json: bool) -> int:
    from onnxplain.cli.output import emit_json, printable

    if as_json:
        error = {"status": status, "kind": _KINDS[status], "message": message}
        emit_json({"schema": "onnxplain.error/1", "error": error}, sys.stdout)
    sys.stderr.write(f"onnxplain: {message if status == INTERRUPTED else 'error: ' + printable(message)}\n")
    return status
