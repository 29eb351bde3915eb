"""jacobian refuses what would silently be wrong, with the reason and the remedy."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from headwise.attribution.jacobians.jacobian import jacobian


def test_reentrant_checkpoint_is_refused() -> None:
    layer = nn.Linear(3, 3)
    value = checkpoint(layer, torch.ones(1, 3, requires_grad=True), use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        jacobian({"a": value.sum(), "b": layer.weight.sum()}, layer)


def test_a_compiled_part_that_donates_buffers_is_refused() -> None:
    layer = nn.Linear(3, 3)
    value = torch.compile(layer, backend="aot_eager")(torch.ones(1, 3)).square()
    losses = {"a": value.sum(), "b": value.mean()}
    with (
        torch._functorch.config.patch(donated_buffer=True),
        pytest.raises(ValueError, match="donated_buffer = False"),
    ):
        jacobian(losses, layer)
    with torch._functorch.config.patch(donated_buffer=False):
        table = jacobian(losses, layer)
    for loss, value in losses.items():
        gradient = torch.autograd.grad(value, layer.weight, retain_graph=True)[0]
        assert table.norm(loss, "weight") == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_guard_the_donated_buffer_switch() -> None:
    assert hasattr(torch._functorch.config, "donated_buffer"), (
        f"torch {torch.__version__}: torch._functorch.config.donated_buffer is gone; revise refusals.donates_buffers"
    )


def test_sharded_parameters_are_refused(tmp_path: Any) -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import distribute_module

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = distribute_module(nn.Linear(2, 2), DeviceMesh("cpu", [0]))
        with pytest.raises(ValueError, match="sharded"):
            jacobian([next(model.parameters()).sum()], model)
    finally:
        torch.distributed.destroy_process_group()
