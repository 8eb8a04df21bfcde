"""The command ``poco`` and ``python -m poco``: runs the command line and turns errors into one line.

Exit codes: 0 success; 1 an error that should not happen (a bug); 2 something the caller can mend: wrong arguments, bad
data, a missing file or package, a full disk; 130 interrupted (128 + signal in general). With ``POCO_DEBUG=1`` errors
keep their traceback.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence

from poco.errors import PocoError, optional

OK, BUG, MENDABLE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with ``arguments`` (default: the process's own) and leave with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal cannot show, as on standard error
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; errors are printed to standard error as one line. Returns the exit code."""
    if os.environ.get("POCO_DEBUG", "") not in ("", "0"):
        return _call(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _one_line_warning  # type: ignore[assignment]
        try:
            return _call(arguments)
        except PocoError as error:
            return _fail(str(error), getattr(error, "exit_code", MENDABLE))
        except KeyboardInterrupt:
            return _fail("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has gone; keep Python from complaining about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return MENDABLE
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            return _fail(f"{where}{error.strerror or error}", MENDABLE)
        except MemoryError:
            return _fail("out of memory: use fewer sessions, a smaller batch or a shorter context", MENDABLE)
        except Exception as error:  # noqa: BLE001  # the last resort: a person gets a line, not a traceback
            if type(error).__name__ == "OutOfMemoryError":
                return _fail("out of GPU memory: use a smaller --batch-size or --device cpu", MENDABLE)
            text = f"unexpected {type(error).__name__}: {error}"
            return _fail(f"{text} (a bug; POCO_DEBUG=1 shows where)", BUG)


def _call(arguments: Sequence[str]) -> int:
    with optional("rich", "cli", "the command line"):
        import rich  # noqa: F401
    with optional("typer", "cli", "the command line"):
        import typer
    from poco.cli.app import app

    # Typer brings click's exceptions under different module names in its versions; the bases are the same.
    usage_error = typer.BadParameter.__mro__[1]
    try:
        code = app(args=list(arguments), prog_name="poco", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if not isinstance(error, usage_error):
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "poco"
        raise PocoError(f"{error.format_message()} Try '{command} --help'.") from None  # type: ignore[attr-defined]
    if code == INTERRUPTED:  # Typer turns the interrupt into a code, or above into Abort
        raise KeyboardInterrupt
    return code if isinstance(code, int) else OK


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"poco: error: {line}", file=sys.stderr, flush=True)
    return code


def _one_line_warning(message: Warning | str, *_: object, **__: object) -> None:
    line = " ".join(str(message).split())
    print(f"poco: warning: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
