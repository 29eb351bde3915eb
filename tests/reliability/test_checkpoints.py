"""A checkpoint is what was written, or it is refused by name and an earlier one is used."""

import io
import random
import shutil
import zipfile
from typing import Any

import pytest
import torch

import headwise as hw
from headwise.recipes import RECIPES
from headwise.training.folder.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from tests.reliability import kit


def state(seed):
    torch.manual_seed(seed)
    return {
        "preset": "p", "recipe": "p", "arguments": {"rate": 0.5}, "network": {"w": torch.randn(30, 30)},
        "optimizer": {"state": {}}, "scheduler": {"last": seed}, "scores": {"iou50": 0.25}, "seconds": 1.5,
    }  # fmt: skip


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def flip(path, position, bit=6):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(bytes(content))


def newest(folder):
    """The newest checkpoint that serves, and what was said of the others."""
    said: list[str] = []
    return newest_checkpoint(folder, "p", said.append), " ".join(said)


@pytest.mark.parametrize("number", range(3))
def test_flipped_bits(tmp_path, number):
    path = save_checkpoint(tmp_path, 5, state(0))
    whole, good = load_checkpoint(path), path.read_bytes()
    draw, silent = random.Random(number), 0
    for _ in range(25):
        path.write_bytes(good)
        flip(path, draw.randrange(len(good)), draw.randrange(8))
        try:
            silent += not same(whole, load_checkpoint(path))
        except ValueError as error:
            kit.check_line(error, path.name)
    assert not silent, f"{silent} of 25 flipped bits load with other content"


@pytest.mark.parametrize("where", [0.3, 0.5, 0.7])
def test_the_last_good_one_is_used(tmp_path, where):
    save_checkpoint(tmp_path, 5, state(0))
    path = save_checkpoint(tmp_path, 10, state(1))
    flip(path, int(where * path.stat().st_size))
    found, said = newest(tmp_path)
    assert found["step"] == 5, f"step {found['step']} is used"
    assert path.name in said


def archive(pickled, form="archive/"):
    """A file as torch writes it, around any bytes of a pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            file.writestr(form + name, text)
    return content.getvalue()


BROKEN = {
    "a stack that is empty": archive(b"\x80\x02."),
    "an item of a number": archive(b"\x80\x02K\x01K\x01K\x01s."),
    "a call of a number": archive(b"\x80\x02K\x01)R."),
    "a memo that is missing": archive(b"\x80\x02h\x07."),
    "a storage of no kind": archive(b"\x80\x02K\x01Q."),
    "a storage of the wrong form": archive(b"\x80\x02(K\x01K\x02tQ."),
    "a list from nowhere": archive(b"\x80\x02K\x01K\x02e."),
    "words that are no text": archive(b"\x80\x02X\x04\x00\x00\x00\xff\xfe\xfd\xfc."),
}


@pytest.mark.parametrize("what", BROKEN)
def test_whatever_the_reader_raises(tmp_path, what):
    save_checkpoint(tmp_path, 5, state(0))
    path = save_checkpoint(tmp_path, 10, state(1))
    path.write_bytes(BROKEN[what])
    with kit.refused(path.name):
        load_checkpoint(path)
    found, said = newest(tmp_path)
    assert found["step"] == 5
    assert path.name in said


def test_two_files_in_each_other_s_place(tmp_path):
    """The newest content, or an older one with a word, or a refusal."""
    one, other = save_checkpoint(tmp_path, 5, state(0)), save_checkpoint(tmp_path, 10, state(1))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    try:
        found, said = newest(tmp_path)
    except ValueError as error:
        kit.check_line(error, (one.name, other.name))
    else:
        assert found["step"] == 10 or other.name in said, f"step {found['step']} is used, and nothing said"


def test_a_resumed_run_says_which_checkpoint_is_broken(tmp_path, capfd):
    """By the loop itself: from the one before, to the end, or a refusal."""
    start = {"out": tmp_path / "run", "steps": 12, "num_workers": 0, **kit.SMALL}
    RECIPES["weighted_unet"](**start)
    paths = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    flip(paths[-1], paths[-1].stat().st_size // 2)
    capfd.readouterr()
    try:
        RECIPES["weighted_unet"](**start, resume=True)
    except ValueError as error:
        kit.check_line(error, paths[-1].name)
    else:
        said = "".join(capfd.readouterr())
        assert paths[-1].name in said, f"not a word: {said[-300:]!r}"


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, part):
    save_checkpoint(tmp_path, 5, state(0))
    path = save_checkpoint(tmp_path, 10, state(1))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with kit.refused(path.name):
        load_checkpoint(path)
    found, said = newest(tmp_path)
    assert found["step"] == 5
    assert path.name in said


def test_a_whole_file(tmp_path):
    save_checkpoint(tmp_path, 5, state(0))
    save_checkpoint(tmp_path, 10, state(1))
    found, said = newest(tmp_path)
    assert found["step"] == 10
    assert not said
    assert same({key: found[key] for key in state(1)}, state(1))


KEPT = {
    "conjugated": torch.tensor([1 + 2j, 3 - 1j]).conj(), "negated": torch.tensor([1 + 2j]).conj().imag,
    "every other": torch.arange(9)[::2], "expanded": torch.ones(1).expand(4), "one number": torch.tensor(True),
    "nothing": torch.zeros(0, 3), "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "uint16": torch.ones(2).to(torch.uint16),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_any_tensor_comes_back(tmp_path, kind):
    path = save_checkpoint(tmp_path, 5, {**state(0), "more": KEPT[kind]})
    assert torch.equal(load_checkpoint(path)["more"], KEPT[kind])


def nested(depth):
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


UNFIT = {
    "sparse": (torch.eye(3).to_sparse(), "'more'.* a tensor of torch.sparse_coo"),
    "without content": (torch.ones(2, device="meta"), "'more'.* a tensor without content"),
    "deep": (nested(3000), "nested too deep"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_could_not_be_read_again_is_not_written(tmp_path, kind):
    value, told = UNFIT[kind]
    with pytest.raises(ValueError, match=told):
        save_checkpoint(tmp_path, 5, {**state(0), "more": value})
    assert not list(tmp_path.iterdir())


def test_a_state_does_not_overwrite_what_makes_a_checkpoint(tmp_path):
    found = load_checkpoint(save_checkpoint(tmp_path, 5, {**state(0), "format": "x", "version": 9, "step": 77}))
    assert found["step"] == 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    start: dict[str, Any] = {"out": folder, "steps": 8, "num_workers": 0, **kit.SMALL}
    RECIPES["weighted_unet"](**start)
    return folder


def edited(trained, folder, change):
    """A copy of the run whose one checkpoint was written by other code: its digests fit, its content does not."""
    shutil.copytree(trained, folder)
    (*older, path) = sorted((folder / "checkpoints").glob("*.pt"))
    state = load_checkpoint(path)
    change(state)
    for each in (*older, path):
        each.unlink()
    save_checkpoint(folder / "checkpoints", 4, state)  # so that there is something left to train
    return {"out": folder, "steps": 8, "num_workers": 0, **kit.SMALL, "resume": True}


@pytest.mark.parametrize("value", [None, 3, [], "gone"], ids=repr)
@pytest.mark.parametrize(
    "part", ["arguments", "network", "criterion", "optimizer", "scheduler", "books", "scores", "seconds"]
)
def test_a_part_that_lacks_or_is_another_is_named(trained, tmp_path, part, value):
    start = edited(
        trained, tmp_path / "run", lambda state: state.pop(part) if value == "gone" else state.update({part: value})
    )
    with pytest.raises(ValueError, match=rf"checkpoint of step 4 lacks {part}, or holds something else"):
        RECIPES["weighted_unet"](**start)


@pytest.mark.parametrize("part", ["network", "optimizer", "scheduler"])
def test_a_part_that_is_empty_is_refused(trained, tmp_path, part):
    """An empty scheduler would go on at another rate in silence."""
    start = edited(trained, tmp_path / "run", lambda state: state.update({part: {}}))
    with pytest.raises(ValueError, match="checkpoint of step 4 does not fit what is to be trained"):
        RECIPES["weighted_unet"](**start)


@pytest.mark.parametrize("name", ["config.json", "saved.json"])
def test_a_deep_file_of_a_run_is_refused_by_name(trained, tmp_path, name):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / name).write_text('{"arguments": ' + "[" * 100_000 + "]" * 100_000 + "}")
    start = {"out": folder, "steps": 8, "num_workers": 0, **kit.SMALL, "resume": True}
    if name == "saved.json":  # it says nothing then; the checkpoints do
        assert RECIPES["weighted_unet"](**start).steps == 8
        return
    with pytest.raises(ValueError, match=r"config\.json: no JSON .nested too deep"):
        RECIPES["weighted_unet"](**start)


@pytest.mark.parametrize("part", ["steps", "samples", "balance"])
def test_a_ledger_s_state_of_another_form_is_refused(part):
    criterion = hw.Criterion([hw.Term("alpha", hw.losses.squared_error, output="x", target="y")])
    with hw.Ledger(criterion, samples=2, balance=hw.balance.Shares()) as ledger:
        state = ledger.state_dict()
        for other in (1.5, [1], "x"):
            with pytest.raises(ValueError, match=r"Ledger\.load_state_dict"):
                ledger.load_state_dict({**state, part: other})
        whole: Any
        for whole in (None, 3, [1]):
            with pytest.raises(ValueError, match=r"Ledger\.load_state_dict"):
                ledger.load_state_dict(whole)
