import json
from pathlib import Path

import pytest
import torch

from headwise.networks import centernet, cornernet, cornernet_saccade, cornernet_squeeze, load_published
from headwise.networks.corners.detector import CornerDetector, Size, Traits
from headwise.networks.corners.names import own_name
from tests.reference.corner_networks import Published

GOLDEN = Path(__file__).parents[1] / "golden"
BUILDERS = {
    "cornernet": cornernet,
    "cornernet_squeeze": cornernet_squeeze,
    "cornernet_saccade": cornernet_saccade,
    "centernet_104": centernet,
    "centernet_52": lambda: centernet(size=52),
}
SIX = (8, 8, 12, 12, 12, 16)
NARROW = {
    "cornernet": ("cornernet", 2, Size(4, SIX, pooled=4, hidden=6), Traits()),
    "cornernet_squeeze": ("squeeze", 2, Size(4, SIX[1:], (2, 2, 2, 2, 4), 4, 6, stride=8), Traits(fire=True)),
    "cornernet_saccade": ("saccade", 3, Size(4, (8, 12, 12, 16), (1, 1, 1, 1), 4, 6), Traits(attention=True)),
    "centernet_104": ("centernet", 2, Size(4, SIX, pooled=4, hidden=6), Traits(center=True)),
    "centernet_52": ("centernet", 1, Size(4, SIX, pooled=4, hidden=6), Traits(center=True)),
}


def read_shapes(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def on_meta(name):
    with torch.device("meta"):
        return BUILDERS[name]()


def numbered(shapes):
    """One number per entry, expanded without memory: the name's place in the list."""
    return {f"module.{name}": torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_tensor_of_the_authors_finds_a_place(name):
    shapes = read_shapes(name)
    network = on_meta(name)
    assert load_published(network, numbered(shapes)) is network
    loaded = {key: value.flatten()[0].item() for key, value in network.state_dict().items()}
    assert sorted(loaded.values()) == list(range(len(shapes)))


PLACES = {
    "hg.pre.0.bn.running_var": "trunk.stem.0.norm.running_var",
    "hg.pre.1.skip.0.weight": "trunk.stem.1.project.conv.weight",
    "hg.hgs.1.low2.low2.low1.0.conv1.weight": "trunk.hourglasses.1.inner.inner.down.0.first.conv.weight",
    "hg.hgs.0.low2.low3.1.bn2.bias": "trunk.hourglasses.0.inner.back.1.second.norm.bias",
    "hg.hgs.0.up2.bias": "trunk.hourglasses.0.upsample.bias",
    "hg.hgs.0.up1.1.conv_3x3.weight": "trunk.hourglasses.0.up.1.second.depthwise.weight",
    "kps.0.up1.0.bn1.weight": "trunk.hourglasses.0.up.0.first.norm.weight",
    "hg.cnvs.1.conv.weight": "trunk.smooth.1.conv.weight",
    "cnvs_.0.1.weight": "trunk.from_features.0.norm.weight",
    "hg.inters_.0.0.weight": "trunk.from_input.0.conv.weight",
    "inters.0.conv2.weight": "trunk.between.0.second.conv.weight",
    "tl_modules.1.p1_conv1.conv.weight": "stacks.1.pools.top_left.vertical.conv.weight",
    "br_modules.0.p2_conv1.bn.bias": "stacks.0.pools.bottom_right.horizontal.norm.bias",
    "br_cnvs.0.look_conv1.conv.weight": "stacks.0.pools.bottom_right.look_horizontally.conv.weight",
    "tl_cnvs.1.P2_look_conv.weight": "stacks.1.pools.top_left.mix_horizontal.weight",
    "ct_cnvs.0.bn1.running_mean": "stacks.0.pools.center.merge.direct.norm.running_mean",
    "tl_modules.0.conv2.bn.num_batches_tracked": "stacks.0.pools.top_left.merge.out.norm.num_batches_tracked",
    "br_heats.1.0.conv.bias": "stacks.1.heads.bottom_right_heatmap.conv.bias",
    "tl_tags.0.1.weight": "stacks.0.heads.top_left_embedding.out.weight",
    "br_offs.0.1.bias": "stacks.0.heads.bottom_right_offset.out.bias",
    "ct_regrs.1.1.bias": "stacks.1.heads.center_offset.out.bias",
    "att_modules.2.0.1.bias": "stacks.2.attention.0.out.bias",
}


@pytest.mark.parametrize(("published", "own"), PLACES.items())
def test_places_by_name(published, own):
    assert own_name(published) == own


def random_state(name, network):
    """Draw values for every name of the authors; of the narrow network only the shapes are used."""
    generator = torch.Generator().manual_seed(7)
    own, state = network.state_dict(), {}
    for key in read_shapes(name):
        shape = own[own_name(key)].shape
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        if key.endswith("running_var"):
            drawn = drawn.abs() + 0.5
        elif drawn.dim() == 4:
            drawn *= (2 / drawn[0].numel()) ** 0.5  # keeps the features' scale through the depth
        elif key.endswith("weight"):
            drawn = 1 + 0.2 * drawn
        state["module." + key] = (
            torch.tensor(5) if key.endswith("tracked") else 0.3 * drawn if drawn.dim() < 4 else drawn
        )
    return state


def leaves(outputs, path=""):
    if isinstance(outputs, torch.Tensor):
        return {path: outputs}
    items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
    return {key: leaf for name, part in items for key, leaf in leaves(part, f"{path}.{name}").items()}


@pytest.mark.parametrize("name", NARROW)
def test_the_authors_network_by_their_names_gives_our_outputs(name):
    family, num_stacks, size, traits = NARROW[name]
    network = CornerDetector(3, num_stacks, size, traits).double()
    state = random_state(name, network)
    load_published(network, state).eval()
    images = torch.randn(1, 3, 127, 128 if family != "saccade" else 63, dtype=torch.float64)
    reference = Published({key.removeprefix("module."): value for key, value in state.items()}, family)
    with torch.no_grad():
        found, expected = leaves(network(images)), leaves(reference(images))
    assert set(found) == set(expected)
    scales = []
    for path, values in expected.items():
        torch.testing.assert_close(found[path], values, rtol=1e-9, atol=1e-9 * values.abs().max().item(), msg=path)
        scales.append(values.std().item() / values.abs().max().item())
    assert max(scales) > 1e-2  # the maps differ from place to place: a wrong place would show


def test_another_systems_checkpoint_is_refused():
    network = on_meta("cornernet_saccade")
    with pytest.raises(ValueError, match=r"does not fit CornerDetector: .* system, size, classes and number of stacks"):
        load_published(network, numbered(read_shapes("cornernet_squeeze")))
    assert all(value.is_meta for value in network.state_dict().values())


def test_other_classes_are_refused_by_name():
    with torch.device("meta"):
        network = cornernet_squeeze(10)
    with pytest.raises(
        ValueError, match=r"of another shape \(stacks.0.heads.top_left_heatmap.out.weight \(80, 256, 1, 1\) for \(10,"
    ):
        load_published(network, numbered(read_shapes("cornernet_squeeze")))
