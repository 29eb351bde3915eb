"""The device of the tests here: a GPU, or what HEADWISE_TEST_DEVICE names, so that they can be tried without one."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    named = os.environ.get("HEADWISE_TEST_DEVICE", "cuda")
    if named == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can use; HEADWISE_TEST_DEVICE=cpu tries the tests themselves")
    return torch.device(named)
