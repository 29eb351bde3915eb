import pytest
import torch

from headwise.networks import centernet, cornernet, cornernet_saccade, cornernet_squeeze
from headwise.networks.corners.detector import CornerDetector, Size, Traits
from headwise.networks.corners.hourglass import Hourglass
from headwise.networks.corners.pools import CascadeCornerPool

BUILDERS = (cornernet, cornernet_squeeze, cornernet_saccade, centernet)
CORNERS = {f"{corner}_{kind}" for corner in ("top_left", "bottom_right") for kind in ("heatmap", "embedding", "offset")}
NAMES = {
    cornernet: CORNERS,
    cornernet_squeeze: CORNERS,
    cornernet_saccade: CORNERS | {"attention"},
    centernet: CORNERS | {"center_heatmap", "center_offset"},
}
CHANNELS = {"embedding": 1, "offset": 2}


def on_meta(builder, *args, **options):
    with torch.device("meta"):
        return builder(*args, **options)


def tensors(outputs):
    for stack in outputs["stacks"]:
        for value in stack.values():
            yield from value if isinstance(value, list) else [value]


@pytest.mark.parametrize(
    ("builder", "options", "published"),
    [
        (cornernet, {}, 201_035_212),
        (cornernet_squeeze, {}, 31_771_852),
        (cornernet_saccade, {}, 116_969_339),
        (centernet, {}, 210_062_960),
        (centernet, {"size": 52}, 104_844_152),
    ],
)
def test_parameter_counts_are_the_published_to_the_unit(builder, options, published):
    assert sum(p.numel() for p in on_meta(builder, **options).parameters()) == published


@pytest.mark.parametrize(
    ("builder", "options", "side", "grid", "num_stacks"),
    [
        (cornernet, {}, 511, 128, 2),
        (cornernet_squeeze, {}, 511, 64, 2),
        (cornernet_saccade, {}, 255, 64, 3),
        (centernet, {}, 512, 128, 2),
        (centernet, {"size": 52}, 509, 128, 1),
        (cornernet, {"size": "tiny"}, 127, 32, 2),
        (cornernet_squeeze, {"size": "tiny"}, 128, 16, 2),
        (cornernet_saccade, {"size": "tiny"}, 128, 32, 3),
        (centernet, {"size": "tiny"}, 125, 32, 2),
    ],
)
def test_names_and_shapes(builder, options, side, grid, num_stacks):
    outputs = on_meta(builder, 7, **options)(torch.empty(2, 3, side, side, device="meta"))
    assert list(outputs) == ["stacks"]
    assert len(outputs["stacks"]) == num_stacks
    for stack in outputs["stacks"]:
        assert set(stack) == NAMES[builder]
        if attention := stack.pop("attention", None):
            assert [part.shape for part in attention] == [(2, 1, n, n) for n in (grid // 4, grid // 2, grid)]
        for name, value in stack.items():
            assert value.shape == (2, CHANNELS.get(name.rpartition("_")[2], 7), grid, grid)


@pytest.mark.parametrize("builder", BUILDERS)
def test_evaluation_gives_all_stacks_too_and_sides_may_differ(builder):
    network = builder(3, size="tiny").eval()
    with torch.no_grad():
        wide, same = network(torch.randn(1, 3, 32, 95)), network(torch.randn(1, 3, 64, 96))
    assert len(wide["stacks"]) == len(same["stacks"]) == len(network.stacks)
    ratio = network.stride
    assert wide["stacks"][0]["top_left_offset"].shape == (1, 2, 32 // ratio, 96 // ratio)


@pytest.mark.parametrize("builder", BUILDERS)
def test_one_class_one_image_one_stack_trains_every_parameter(builder):
    network = builder(1, size="tiny", num_stacks=1)
    outputs = network(torch.randn(1, 3, 64, 63))
    assert outputs["stacks"][0]["bottom_right_heatmap"].shape[:2] == (1, 1)
    sum(part.square().sum() for part in tensors(outputs)).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_every_parameter_of_every_stack_is_trained():
    network = centernet(2, size="tiny", num_stacks=3)
    sum(part.square().sum() for part in tensors(network(torch.randn(2, 3, 64, 64)))).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("builder", BUILDERS)
def test_heat_maps_and_attention_alone_start_at_a_probability_of_a_tenth(builder):
    network = builder(5, size="tiny")
    for stack in network.stacks:
        for name, layers in (*stack.heads.items(), *(("attention", part) for part in stack.attention)):
            starts = torch.full_like(layers.out.bias, -2.19)
            assert torch.equal(layers.out.bias, starts) == (name.endswith(("heatmap", "attention")))
    stack = network(torch.randn(2, 3, 64, 64))["stacks"][0]
    assert -2.8 < stack["top_left_heatmap"].mean() < -1.6  # raw, no sigmoid


@pytest.mark.parametrize(
    ("builder", "size", "side", "fits"),
    [
        (cornernet, "full", 509, None),
        (cornernet, "full", 508, "511 or 512"),
        (cornernet, "full", 513, "639 or 640"),
        (cornernet, "full", 64, "127 or 128"),
        (cornernet, "tiny", 100, "111 or 112"),
        (cornernet_squeeze, "full", 504, "511 or 512"),
        (cornernet_squeeze, "tiny", 129, "159 or 160"),
        (cornernet_saccade, "full", 253, None),
        (cornernet_saccade, "full", 252, "255 or 256"),
        (centernet, "tiny", 0, "15 or 16"),
    ],
)
def test_heights_and_widths_that_do_not_halve_are_named(builder, size, side, fits):
    network = on_meta(builder, size=104 if (builder, size) == (centernet, "full") else size)
    for name, shape in (("height", (side, 512)), ("width", (512, side))):
        images = torch.empty(1, 3, *shape, device="meta")
        if fits is None:
            network(images)
            continue
        with pytest.raises(ValueError, match=f"found a {name} of {side}. Pad or resize to {fits}"):
            network(images)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 2, 3, 64, 64)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\), found"):
        on_meta(cornernet, size="tiny")(torch.empty(shape, device="meta"))


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "size is .*'tiny', found 'huge'"),
        ({"num_classes": 0}, "num_classes is at least 1, found 0"),
        ({"num_stacks": 0}, "num_stacks is at least 1, found 0"),
    ],
)
def test_options_that_do_not_fit(builder, options, message):
    with pytest.raises(ValueError, match=f"networks.{builder.__name__}: {message}"):
        builder(**options)


@pytest.mark.parametrize("builder", BUILDERS)
def test_layouts_agree(builder):
    network = builder(3, size="tiny").double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    plain = list(tensors(network(images)))
    network.to(memory_format=torch.channels_last)
    last = list(tensors(network(images.to(memory_format=torch.channels_last))))
    for one, other in zip(plain, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("builder", BUILDERS)
def test_autocast(builder):
    network = builder(3, size="tiny")
    with torch.autocast("cpu", torch.bfloat16):
        outputs = list(tensors(network(torch.randn(2, 3, 64, 64))))
    assert {part.dtype for part in outputs} == {torch.bfloat16}
    sum(part.float().square().sum() for part in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_network_compiles_without_a_break():
    size, traits = Size(4, (4, 6), (1, 1), pooled=2, hidden=4), Traits(attention=True, center=True)
    network = CornerDetector(2, 1, size, traits).eval()
    images = torch.randn(1, 3, 16, 16)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(*(list(tensors(run(images))) for run in (compiled, network)))


def test_a_pooling_module_and_its_gradients_compile_whole():
    module = CascadeCornerPool(8, 4, "top_left").eval()
    features = torch.randn(2, 8, 6, 6)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(run(features).square().sum(), list(module.parameters())) for run in (compiled, module)
    )
    torch.testing.assert_close(found, expected)


def test_the_hourglass_merges_at_every_size():
    hourglass = Hourglass((4, 6, 8), (1, 1, 1), lambda a, b, stride=1: torch.nn.Conv2d(a, b, 1, stride))
    merged = hourglass(torch.randn(1, 4, 8, 12))
    assert [tuple(part.shape) for part in merged] == [(1, 6, 4, 6), (1, 4, 8, 12)]
    assert not isinstance(hourglass.inner.inner, Hourglass)
