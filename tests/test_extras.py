"""What needs an extra says which, all of it at once, in one line."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from headwise.require import EXTRAS

CASES = """
import importlib, json, os, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked, cases, folder = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
sys.meta_path.insert(0, Missing())
import torch

for number, (more, how, what) in enumerate(cases):
    child = os.fork()
    if child == 0:
        blocked = [*blocked, *more]
        sys.stderr = open(os.path.join(folder, f"said{number}.txt"), "w")
        code = 99
        try:
            if how == "import":
                importlib.import_module(what)
                code = 0
            else:
                from headwise.cli import main

                code = main([*what, "--out", os.path.join(folder, f"run{number}")])
        except BaseException as error:
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(code or 0)
    _, status = os.waitpid(child, 0)
    said = open(os.path.join(folder, f"said{number}.txt")).read()
    print(json.dumps([os.waitstatus_to_exitcode(status), said]), flush=True)
"""
FOREIGN = [
    "lightning", "lightning_fabric", "pytorch_lightning", "transformers", "accelerate", "tensorboard", "torchjd",
    "yaml", "torchvision", "cv2", "skimage", "shapely", "PIL", "scipy", "sklearn", "matplotlib", "rich",
    "faster_coco_eval",
]  # fmt: skip
MODULES = [
    "coders.snake_geometry", "coders.snake_walk", "training.callbacks.lightning", "training.callbacks.huggingface",
    "loops.lightning", "loops.huggingface",
]  # fmt: skip
ALONE = ["criterion", "attribution", "losses", "presets", "normalizers"]


def extras(text):
    """The extras that a text tells one to install."""
    return {each.strip() for found in re.findall(r"headwise\[([\w, -]+)\]", text) for each in found.split(",")}


def results(folder, blocked, cases):
    """The exit code and what was said, of each case."""
    command = [sys.executable, "-c", CASES, json.dumps(blocked), json.dumps(cases), str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert child.returncode == 0, child.stderr[-500:]
    return [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """torch, and nothing else."""
    cases: list[tuple[list[str], str, object]]
    cases = [([], "command", ["train", recipe]) for recipe in ("textsnake", "ssd")]
    cases += [([], "import", "headwise." + name) for name in (*MODULES, *ALONE)]
    found = results(tmp_path_factory.mktemp("alone"), [*FOREIGN, "numpy"], cases)
    return dict(zip(["textsnake", "ssd", *MODULES, *ALONE], found, strict=True))


@pytest.fixture(scope="module")
def without_one(tmp_path_factory):
    """One package is missing, as after half an installation."""
    names = ["PIL", "lightning_fabric", "sklearn", "tensorboard"]
    cases = [([name], "command", ["train", "weighted_unet", "--steps", "1"]) for name in names]
    return dict(zip(names, results(tmp_path_factory.mktemp("one"), [], cases), strict=True))


def check_refusal(code, said, name):
    assert code == 2, said[-400:]
    assert "Traceback" not in said, said[-400:]
    assert extras(said) & {"train", "all"}, f"without {name}: {said[-400:]}"
    assert len([line for line in said.splitlines() if "error" in line]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["textsnake", "ssd"])
def test_train_names_all_that_it_needs(alone, recipe):
    """What the message tells one to install is enough."""
    code, said = alone[recipe]
    check_refusal(code, said, "anything but torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PIL", "lightning_fabric", "sklearn", "tensorboard"])
def test_one_package_is_missing(without_one, name):
    code, said = without_one[name]
    check_refusal(code, said, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_needs_an_extra(alone, name):
    """It can be imported, or an ImportError names the extra; a module that is gone is no fault."""
    code, said = alone[name]
    if code and not re.search(r"No module named 'headwise", said):
        assert re.search(r"(Import|ModuleNotFound)Error", said), said
        assert extras(said), said


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_what_needs_torch_alone(alone, name):
    assert alone[name][0] == 0, alone[name][1]


def test_the_extras_are_those_of_the_project():
    """What `require` tells one to install is what pyproject.toml has under that name."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    declared = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def packages(extra):
        for each in declared[extra]:
            inner = re.match(r"headwise\[([\w,]+)\]", each)
            for name in inner[1].split(",") if inner else ():
                yield from packages(name)
            yield from re.findall(r"^(?!headwise)[\w-]+", each)

    for extra, known in EXTRAS.items():
        assert set(known.values()) == set(packages(extra)), extra
