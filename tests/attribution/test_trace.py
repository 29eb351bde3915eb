"""trace: which loss reaches which parameter and output, against autograd's own answer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwise import reach
from headwise.attribution.tracing.trace import trace
from headwise.graph import PRIVATE_ATTRIBUTES
from tests.attribution.brute import Net, rows, setup


@pytest.mark.parametrize("options", [{}, {"use_checkpoint": True}, {"in_place": True}, {"norm": False}])
def test_agrees_with_autograd_in_every_cell(options: dict[str, bool]) -> None:
    model, outputs, losses = setup(**options)
    table = trace(losses, model, outputs)
    for loss, row in rows(losses, model).items():
        for name, grad in row.items():
            assert table.reaches(loss, name) == (grad is not None), (loss, name)
    assert table.unreached_parameters == ("unused.weight", "unused.bias")


def test_channels_outputs_and_modules() -> None:
    model, outputs, losses = setup()
    table = trace(losses, model, {**outputs, "extra": outputs["depth"] * 1})
    assert table.channels("text", "region").indices == (0, 1)
    assert table.channels("angle", "region").indices == (3,)
    assert table.channels("depth", "region").indices == ()
    assert all(table.channels(loss, "region").exact for loss in ("text", "angle"))
    assert table.untrained_outputs == ("region[:, 2]", "extra")
    assert table.reaches("depth", "depth.0")
    assert not table.reaches("text", "depth")
    assert table.reaches("text", "block")


def test_a_tuple_with_names_and_a_single_loss() -> None:
    model, _, losses = setup()
    assert [row.name for row in trace(tuple(losses.values()), model).losses] == ["0", "1", "2"]
    assert [row.name for row in trace(list(losses.values()), model, names=["a", "b", "c"]).losses] == ["a", "b", "c"]
    assert trace(losses["text"], model).reaches("0", "stem.0.weight")
    with pytest.raises(ValueError, match="as many different names"):
        trace(list(losses.values()), model, names=["a", "a", "b"])


def test_losses_without_a_graph_are_reported() -> None:
    model, _, losses = setup()
    table = trace({"number": 0.0, "detached": losses["text"].detach(), "text": losses["text"]}, model)
    assert table.no_graph == ("number", "detached")
    assert not table.reaches("detached", "stem.0.weight")
    assert "no graph" in str(table)


@pytest.mark.parametrize("bad", [{}, [], {"a": torch.zeros(2)}, {"a": "text"}, {"a": True}])
def test_what_is_no_loss_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="loss"):
        trace(bad, nn.Linear(1, 1))


def test_zero_weight_is_told_apart() -> None:
    model, outputs, losses = setup()
    table = trace({"text": losses["text"], "depth": 0.0 * losses["depth"]}, model, outputs)
    assert table.reaches("depth", "depth.0.weight")
    assert set(table.zero_weight_parameters) == {"depth.0.weight", "depth.0.bias", "depth.2.weight", "depth.2.bias"}
    assert table.zero_weight_outputs == ("depth",)
    weight = torch.zeros(())
    other = trace({"depth": losses["depth"] * weight}, model)
    assert "stem.0.weight" in other.zero_weight_parameters


@dataclasses.dataclass(frozen=True)
class Entry:
    weighted: Tensor
    weight: float


def test_a_breakdown_knows_its_weights() -> None:
    model, _, losses = setup()
    breakdown: Mapping[str, Entry] = {"a": Entry(losses["text"], 1.0), "b": Entry(losses["depth"], 0.0)}
    table = trace(breakdown, model)
    assert table.losses[1].weight == 0
    assert "depth.0.weight" in table.zero_weight_parameters
    assert "stem.0.weight" not in table.zero_weight_parameters


def test_frozen_parameters_are_not_unreached() -> None:
    model = Net().requires_grad_(False)
    model.region.requires_grad_(True)
    outputs = model(torch.randn(2, 3, 4, 4))
    table = trace({"text": outputs["region"].sum()}, model)
    assert table.unreached_parameters == ()
    assert not table.reaches("text", "stem.0.weight")


class _Junction(torch.autograd.Function):
    """Two outputs out of two inputs, whose node says which comes from which."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.headwise_routes = ((0, 0, 1, 0, 2), (1, 0, 1, 3, 4), (2, 1, None, None, None))
        ctx.shape = maps.shape
        return maps[:, 0:2].clone(), maps[:, 3].clone(), depth.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        maps = None
        if grads[0] is not None or grads[1] is not None:
            maps = torch.zeros(ctx.shape, dtype=torch.float64)
            if grads[0] is not None:
                maps[:, 0:2] += grads[0]
            if grads[1] is not None:
                maps[:, 3] += grads[1]
        return maps, grads[2]


def test_routes_keep_what_passes_side_by_side_apart() -> None:
    model, outputs, _ = setup()
    text, angle, depth = _Junction.apply(outputs["region"], outputs["depth"])
    losses = {"text": text.sum(), "angle": angle.sin().sum(), "depth": depth.sum()}
    table = trace(losses, model, outputs)
    for loss, row in rows(losses, model).items():
        for name, grad in row.items():
            assert table.reaches(loss, name) == (grad is not None), (loss, name)
    assert table.channels("text", "region").indices == (0, 1)
    assert table.channels("angle", "region").indices == (3,)
    assert table.channels("text", "depth").indices == ()


class _FusedSum(torch.autograd.Function):
    """A scalar from all of its second tensor argument, which says so."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, maps: Tensor) -> Tensor:
        ctx.headwise_routes = ((0, 1, None, None, None),)
        ctx.save_for_backward(weight, maps)
        return (weight * maps.square()).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, maps = ctx.saved_tensors
        return None, 2 * grad * weight * maps


def test_a_fused_loss_with_a_route_is_told_exactly() -> None:
    model, outputs, _ = setup()
    loss = _FusedSum.apply(torch.ones(()), outputs["region"][:, 1:3])
    channels = trace({"fused": loss}, model, outputs).channels("fused", "region")
    assert (channels.indices, channels.exact) == ((1, 2), True)


def test_reentrant_checkpoint_is_opaque() -> None:
    layer = nn.Linear(3, 3)
    value = checkpoint(layer, torch.ones(1, 3, requires_grad=True), use_reentrant=True)
    table = trace({"a": value.sum()}, layer)
    assert table.opaque[0].losses == ("a",)
    assert "use_reentrant=False" in table.opaque[0].reason


def test_compiled_part_is_opaque_and_the_nan_probe_sees_through() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return model["a"](x), model["b"](x)

    a, b = torch.compile(forward, backend="aot_eager")(torch.ones(2, 3))
    losses = {"a": a.sum(), "b": b.sum()}
    with torch._functorch.config.patch(donated_buffer=False):
        table = trace(losses, model)
        assert table.opaque
        assert table.reaches("a", "b.weight")
        probed = trace(losses, model, probe="nan")
    assert not probed.reaches("a", "b.weight")
    assert probed.reaches("a", "a.weight")


def test_probe_finds_the_channels_that_the_graph_does_not_tell() -> None:
    model, outputs, _ = setup()
    region = outputs["region"]
    mask = torch.zeros_like(region, dtype=torch.bool)
    mask[:, 1, 0] = True
    losses = {"picked": region.masked_select(mask).sum(), "silenced": (region * mask).sum()}
    static = trace(losses, model, outputs)
    assert str(static.channels("picked", "region")) == "unknown"
    probed = trace(losses, model, outputs, probe=True)
    assert probed.channels("picked", "region").indices == (1,)
    assert probed.channels("picked", "region").fraction == pytest.approx(1 / 24)
    silenced = trace(losses, model, outputs, probe="nan").channels("silenced", "region")
    assert silenced.indices == (0, 1, 2, 3)
    assert silenced.source == "nan"


def test_tracing_runs_no_checkpoint_again_and_leaves_no_gradient() -> None:
    calls = []

    def body(x: Tensor) -> Tensor:
        calls.append(1)
        return (x * 2.0).sum() * 0.0

    x = torch.ones(3, requires_grad=True)
    loss = checkpoint(body, x, use_reentrant=False)
    trace({"a": loss}, nn.Linear(1, 1), {"x": x})
    assert len(calls) == 1
    assert x.grad is None


def test_text_fits_100_columns() -> None:
    model, outputs, losses = setup()
    many = {f"a_rather_long_name_of_a_loss_{k}": losses["text"] * 1 for k in range(9)}
    text = str(trace(losses | many | {"number": 0.0}, model, outputs))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "parameters that no loss reaches: unused.weight, unused.bias" in text


def test_unknown_names_are_refused() -> None:
    model, outputs, losses = setup()
    table = trace(losses, model, outputs)
    with pytest.raises(ValueError, match="no loss 'nothing'"):
        table.reaches("nothing", "stem")
    with pytest.raises(ValueError, match="no parameter"):
        table.reaches("text", "nothing")
    with pytest.raises(ValueError, match="no output"):
        table.channels("text", "nothing")


def test_all_losses_are_walked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, losses = setup()
    visited: list[int] = []
    original = reach.read

    def counted(roots: Any) -> Any:
        numbers, structure = original(roots)
        visited.append(len(numbers))
        return numbers, structure

    monkeypatch.setattr(reach, "read", counted)
    trace({"text": losses["text"]}, model)
    trace({str(k): losses["text"] * 1 for k in range(40)}, model)
    assert len(visited) == 2
    assert visited[1] == visited[0] + 40


def _nodes() -> dict[str, Any]:
    x = torch.randn(2, 6, 4, requires_grad=True) * 1
    norm = torch.nn.BatchNorm1d(6)
    made = [
        torch.nn.functional.conv1d(x, torch.ones(1, 6, 1)), norm(x), x + 1,
        x[:, 1:3], x.select(1, 2), x.split(2, 1)[0], x.split([2, 4], 1)[0], x.unbind(1)[0], x[:, [0, 2]],
        x.index_select(1, torch.tensor([1])), x.permute(0, 2, 1), x.transpose(1, 2), torch.cat([x, x], 1),
        torch.stack([x, x]), x.sum(1), x.mean(1), x.softmax(1), x.log_softmax(1), x * x, x.exp(),
        torch.where(x > 0, x, -x), x.log(), x.log1p(), x.abs(), torch.nn.functional.softplus(x), x.pow(3),
    ]  # fmt: skip
    return {node.grad_fn.name(): node.grad_fn for node in made if node.grad_fn is not None}


@pytest.mark.parametrize("name", PRIVATE_ATTRIBUTES)
def test_guard_private_attributes_of_nodes(name: str) -> None:
    nodes = _nodes()
    assert name in nodes, f"torch {torch.__version__} no longer makes a {name}: revise headwise.attribution's rules"
    for attribute in PRIVATE_ATTRIBUTES[name]:
        assert hasattr(nodes[name], attribute), (
            f"torch {torch.__version__}: {name}.{attribute} is gone. headwise.attribution.view_rules read it; channels "
            "will be 'unknown' until the rule is revised."
        )


def test_guard_shapes_and_saved_tensors_of_nodes() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    product = x * 0.0
    metadata = getattr(product.grad_fn, "_input_metadata", None)
    assert metadata is not None, f"torch {torch.__version__}: Node._input_metadata is gone (graph.output_shapes)"
    assert tuple(metadata[0].shape) == (2, 3)
    saved = getattr(product.grad_fn, "_raw_saved_other", None)
    assert isinstance(getattr(saved, "data", None), Tensor), (
        f"torch {torch.__version__}: SavedTensor.data is gone (reach._is_zero)"
    )
    assert hasattr(saved, "unpack_hook"), f"torch {torch.__version__}: SavedTensor.unpack_hook is gone"


def test_retinanet_agrees_in_every_cell() -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=64, max_size=64).train()
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 64, 64)], [target])
    table = trace(losses, model)
    for loss, row in rows(losses, model).items():
        for name, grad in row.items():
            assert table.reaches(loss, name) == (grad is not None), (loss, name)
    assert not table.reaches("classification", "head.regression_head")
