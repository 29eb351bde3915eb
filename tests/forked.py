"""Commands in processes of their own that need not import torch anew.

A server imports it once, and forks for every command. As by `python`, the command is the main module, and the
interpreter ends as it does. For what tests how a process begins or is ended, start one.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]


def python(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``python *command`` does in a folder, where the command is ``-m MODULE ...`` or ``SCRIPT ...``."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as temporary:
        out, err = Path(temporary, "out"), Path(temporary, "err")
        asks, answers = _server()
        print(json.dumps([str(folder.absolute()), words, str(out), str(err)]), file=asks, flush=True)
        code = json.loads(answers.readline())
        return subprocess.CompletedProcess(words, code, out.read_text("utf-8"), err.read_text("utf-8"))


@functools.cache
def _server() -> tuple[IO[str], IO[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.communicate)
    return process.stdin, process.stdout


def serve() -> list[str]:
    """Fork for each line that comes; return the command in a child alone, and end at the end of the lines."""
    for line in iter(sys.stdin.readline, ""):
        folder, words, out, err = json.loads(line)
        command: list[str] = words
        child = os.fork()
        if child == 0:
            _become(folder, out, err)
            return command
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    os._exit(0)


def _become(folder: str, out: str, err: str) -> None:
    os.chdir(folder)
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        new = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(new, number)
        os.close(new)
    sys.stdin = open(0)  # noqa: SIM115  for as long as the process lives


def run_command(words: list[str]) -> None:
    """Run it as the main module."""
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], ""
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent.absolute())
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    import torch._dynamo  # noqa: F401

    import headwise.attribution.run  # noqa: F401

    gc.freeze()  # a child that ends need not copy what all share
    run_command(serve())
