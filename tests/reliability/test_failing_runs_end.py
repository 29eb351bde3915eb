"""A run that fails ends: with a word, a code that is not 0, within seconds; its loading processes too."""

import json
import time

import pytest

from tests.reliability import kit

FAILING = """
import json, multiprocessing, os, signal, sys
import torch

way, what, folder, small = sys.argv[1:5]
ERRORS = {
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "runtime": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "file": lambda: OSError("weights.bin: could not be read"),
}
calls, forward = 0, torch.nn.Conv2d.forward


def failing(self, images):
    global calls
    calls += 1
    if calls == 60:
        print("failing now", flush=True)
        if what == "loader":
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        else:
            raise ERRORS[what]()
    return forward(self, images)


torch.nn.Conv2d.forward = failing
if way == "command":
    from headwise.cli import main

    sys.exit(main(["train", "weighted_unet", "--steps", "400", "--out", folder]))
from headwise.recipes import RECIPES

RECIPES["weighted_unet"](out=folder, steps=4000, num_workers=2, **json.loads(small))
"""
CASES = [("command", "memory"), ("command", "file"), ("script", "runtime"), ("script", "loader")]
GRACE = 10
"""Seconds between the failure and the end: several times what a run that ends needs."""


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    """All failing runs, side by side: none waits for another one's hang."""
    started = {}
    for way, what in CASES:
        folder = tmp_path_factory.mktemp(f"{way}-{what}")
        small = json.dumps(kit.SMALL)
        started[way, what] = kit.Child(folder, "-c", FAILING, way, what, folder / "run", small)
    try:
        for child in started.values():
            assert child.wait(lambda child=child: "failing now" in child.out, 250), child.err[-600:]
        end = time.monotonic() + GRACE
        for child in started.values():
            child.ended(end - time.monotonic())
        yield {case: (child.code, child.out, child.err) for case, child in started.items()}
    finally:
        for child in started.values():
            child.end()


def last(text):
    """The last line that says anything."""
    return ([line for line in text.splitlines() if line.strip()] or [""])[-1]


@pytest.mark.slow
def test_out_of_memory_in_the_command(children):
    code, _, err = children["command", "memory"]
    assert code is not None, f"still there {GRACE} s after the error"
    assert code != 0
    assert "Traceback" not in err
    assert "out of memory" in last(err), err[-600:]


@pytest.mark.slow
def test_an_error_in_a_script(children):
    code, _, err = children["script", "runtime"]
    assert code is not None, f"still there {GRACE} s after the error"
    assert code != 0
    assert "cuDNN error" in err, err[-600:]


@pytest.mark.slow
def test_a_killed_loading_process_in_a_script(children):
    code, out, err = children["script", "loader"]
    assert code is not None, f"still there {GRACE} s after the loading process was killed"
    assert code != 0
    assert "worker" in (out + err).lower(), err[-600:]


@pytest.mark.slow
def test_an_unreadable_file_in_the_command(children):
    code, _, err = children["command", "file"]
    assert code not in (None, 0), f"code {code}"
    assert "Traceback" not in err
    assert "weights.bin" in last(err), err[-600:]
