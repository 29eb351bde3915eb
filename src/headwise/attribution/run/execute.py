"""Runs a script, or a module, as Python itself would: its name, its arguments, its path, its errors, its exit code."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import signal
import sys
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from headwise.attribution.run.script import Enough

_OWN = (str(Path(__file__).parent), os.path.dirname(runpy.__file__) + "/runpy.py", "<frozen runpy>")


def execute(target: str, arguments: Sequence[str], *, is_module: bool) -> int:
    """Runs a script to its end, or until it fails.

    An error is printed as Python prints it, without the frames of this library. Ctrl-C is left to the caller as
    `KeyboardInterrupt`, after the traceback was printed.

    Args:
        target: The path of the script, or the name of the module.
        arguments: What follows it on the command line.
        is_module: Whether `target` is a module.

    Returns:
        The exit code that the script would have had.

    Raises:
        FileNotFoundError: There is no such script.
        KeyboardInterrupt: It was interrupted.
    """
    if not is_module and not Path(target).exists():
        raise FileNotFoundError(2, "No such file", target)
    sys.argv = [target, *arguments]
    sys.path[0] = os.getcwd() if is_module else str(Path(target).resolve().parent)
    try:
        if is_module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif Path(target).is_file() and not zipfile.is_zipfile(target):
            _run_file(Path(target))
        else:
            runpy.run_path(target, run_name="__main__")
    except Enough:
        return 0
    except SystemExit as stop:
        return _code(stop)
    except KeyboardInterrupt as error:
        _print(error)
        raise
    except BaseException as error:
        _print(error)
        return 1
    return 0


def _run_file(path: Path) -> None:
    """Runs a file as the main module, which stays in its place to the end, for threads, workers and `atexit`."""
    main = ModuleType("__main__")
    main.__file__ = str(path.absolute())
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    with io.open_code(main.__file__) as file:
        code = compile(file.read(), main.__file__, "exec")
    exec(code, main.__dict__)


def interrupted() -> None:
    """Ends the process as Ctrl-C ends one of Python's."""
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    sys.stderr.write(f"{stop.code}\n")
    return 1


def _print(error: BaseException) -> None:
    """Prints an error with the frames of the script alone."""
    sys.stdout.flush()
    first: TracebackType | None = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OWN):
        first = first.tb_next
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(type(error), error, first)
    else:
        sys.excepthook(type(error), error, first)
