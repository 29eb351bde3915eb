import json
import pickle
from pathlib import Path

import pytest
import torch

from headwise.networks import load_published, textsnake

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "textsnake_vgg16.json").read_text())


@pytest.fixture(scope="module")
def network():
    return textsnake("vgg16")


@pytest.fixture
def state():
    """One number per entry, expanded without memory: the key's place in the list."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(SHAPES.items())}


def numbers(network):
    return {name: value.flatten()[0].item() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("entry", ["model", "state_dict", None])
def test_authors_names_find_their_places(network, state, prefix, entry):
    state = {prefix + name: value for name, value in state.items()}
    assert load_published(network, state if entry is None else {entry: state, "lr": 1e-4}) is network
    loaded, order = numbers(network), list(SHAPES)
    for own, name in {
        "stages.0.0.weight": "backbone.stage1.0.weight",
        "stages.4.4.bias": "backbone.stage5.4.bias",
        "deepest.weight": "deconv5.weight",
        "merges.0.mix.weight": "merge4.conv1x1.weight",
        "merges.1.narrow.bias": "merge3.conv3x3.bias",
        "merges.3.upsample.weight": "merge1.deconv.weight",
        "head.1.bias": "predict.1.bias",
    }.items():
        assert loaded[own] == order.index(name)
    assert len(set(loaded.values())) == len(SHAPES)


def test_a_file(network, state, tmp_path):
    path = tmp_path / "textsnake_vgg_180.pth"
    torch.save({"epoch": 180, "model": state, "optimizer": {}}, path)
    load_published(network, path)
    assert numbers(network)["head.1.bias"] == len(SHAPES) - 1
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot read '.*textsnake_vgg_180.pth': .* download it again"):
        load_published(network, path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot read"):
        load_published(network, str(path))
    path.write_bytes(b"PK123")
    with pytest.raises(ValueError, match="no checkpoint of tensors") as error:
        load_published(network, path)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(("content", "found"), [([1, 2], "a list"), (torch.zeros(3), "a Tensor")])
def test_a_file_of_something_else(network, tmp_path, content, found):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"holds {found}. Give a checkpoint with a state dict"):
        load_published(network, path)


def test_a_missing_file(network, tmp_path):
    with pytest.raises(ValueError, match=r"cannot read '.*nothing.pth': .*No such file.* Check the path"):
        load_published(network, tmp_path / "nothing.pth")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_a_file_that_would_run_code_is_refused(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, "new.pth")
    Path("old.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(ValueError, match="a checkpoint holds tensors only"):
            load_published(network, name)
    assert not Path("harm").exists()


def test_misfits_are_listed_and_nothing_is_loaded(network, state):
    before = numbers(network)
    state["extra.weight"] = torch.zeros(1)
    state["predict.1.bias"] = torch.zeros(2)
    for name in [name for name in state if name.startswith("backbone.stage5")]:
        del state[name]
    with pytest.raises(ValueError, match="the state dict does not fit VggTextSnake") as caught:
        load_published(network, {"model": state})
    message = str(caught.value)
    assert "6 missing (stages.4.0.weight, stages.4.0.bias, stages.4.2.weight, stages.4.2.bias, ...)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 of another shape (head.1.bias (2,) for (7,))" in message
    assert message.endswith("Build the network with the checkpoint's backbone and number of channels.")
    assert numbers(network) == before


def test_no_weights(network):
    with pytest.raises(ValueError, match="no tensors at its top or under model or state_dict; it holds epoch, loss"):
        load_published(network, {"epoch": 1, "loss": 2.0})


def test_networks_without_a_published_form(state):
    with pytest.raises(ValueError, match=r"ResNetTextSnake has no published checkpoint. Build .*vgg16"):
        load_published(textsnake("resnet18", width=8), state)
