"""What is drawn at random: in `make test` always the same, on every machine and in any order; in `make search` freely.

What `make search` finds becomes a case of its own, by `hypothesis.example` or as a plain test.
"""

import os
import random
import zlib

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("test", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "test")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Each test draws its own numbers, whatever ran before it in the same process; its fixtures too."""
    seed = int.from_bytes(os.urandom(4)) if PROFILE == "search" else zlib.crc32(item.nodeid.encode())
    item.add_report_section("setup", "seed", str(seed))  # shown where the test fails
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  what a test, or a library that it tries, draws without a generator of its own
    torch.manual_seed(seed)
