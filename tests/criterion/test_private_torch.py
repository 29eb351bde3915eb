"""The private parts of torch that the core reads: if one of these fails, torch has moved it."""

from __future__ import annotations

import pytest
import torch


def test_the_number_of_the_backward_pass():
    """`criterion/sink.py` keeps what readers leave behind apart by it."""
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: seen.append(torch._C._current_graph_task_id()))
    assert torch._C._current_graph_task_id() == -1, "outside of a backward pass the number is -1"
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    assert len(set(seen)) == 2, "every backward pass has a number of its own"
    assert min(seen) >= 0


def test_what_is_batched_by_a_transform_is_known():
    """`losses/fused.py` and `criterion/sink.py` write in place only where nothing is batched."""
    assert not torch._C._are_functorch_transforms_active()
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch._C._are_functorch_transforms_active())
        return x

    torch.func.vmap(look)(torch.ones(2))
    assert seen == [True]
    assert torch._C._functorch.is_legacy_batchedtensor(torch.ones(2)) is False


def test_recomputation_can_be_asked_for():
    """`criterion/criterion.py` asks the partitioner of compiled graphs to recompute."""
    import torch._functorch.config as config

    before = config.aggressive_recomputation
    with config.patch(aggressive_recomputation=True):
        assert config.aggressive_recomputation is True
    assert config.aggressive_recomputation == before


@pytest.mark.parametrize("name", ["donated_buffer"])
def test_settings_that_refusals_read(name):
    import torch._functorch.config as config

    assert hasattr(config, name)
