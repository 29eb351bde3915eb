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
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType

import torch

from headwise.attribution import passes
from headwise.attribution.apart.naming import places
from headwise.attribution.run.script import Enough

_STARTS = (os.path.dirname(runpy.__file__) + "/runpy.py", "<frozen runpy>")
_WATCHES = (str(Path(__file__).parent), places.__file__, passes.__file__)


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
    main.__loader__ = SourceFileLoader("__main__", main.__file__)
    main.__dict__.update(__builtins__=builtins, __cached__=None, __annotations__={})
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
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = _without_us(each.__traceback__)
            waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(error)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def _without_us(first: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that run the script, and those that watch its tensors and passes."""
    frames: list[TracebackType] = []
    while first is not None:
        code = first.tb_frame.f_code
        if code.co_filename.startswith(_WATCHES):
            # Under a mode a function of torch calls itself once more, by way of the mode.
            if frames and frames[-1].tb_frame.f_code is torch.overrides.handle_torch_function.__code__:
                frames[-2:] = []
        elif frames or not code.co_filename.startswith(_STARTS):
            frames.append(first)
        first = first.tb_next
    found: TracebackType | None = None
    for each in reversed(frames):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return found
