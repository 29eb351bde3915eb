"""The wheel, in an environment that holds torch and what torch needs: it imports, books, and says what it lacks."""

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = """
import torch
import headwise as hw
criterion = hw.Criterion([hw.Term("x", hw.losses.smooth_l1, output="x", target="t")])
network = torch.nn.Linear(2, 2)
with hw.Ledger(criterion) as ledger:
    criterion({"x": network(torch.ones(3, 2))}, {"t": torch.zeros(3, 2)}).total.backward()
    print(ledger.read())
print(hw.__version__, hw.__file__)
"""


def needed_by(name, found=None):
    """The distributions that one needs on this machine, extras aside, itself included."""
    found = {} if found is None else found
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return found  # of another platform
    key = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
    if key not in found:
        found[key] = distribution
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                needed_by(re.split(r"[^\w.-]", requirement, maxsplit=1)[0], found)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a fresh wheel and sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def alone(built, tmp_path_factory):
    """A folder of packages: the wheel, torch, what torch needs, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    for distribution in needed_by("torch").values():
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return site


def run(site, *arguments):
    start = f"import sys; sys.path.append({str(site)!r}); "
    code, rest = arguments[0], arguments[1:]
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", start + code, *rest]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_the_wheel_works_with_torch_alone(alone):
    assert not (alone / "numpy").exists()
    done = run(alone, USE)
    assert done.returncode == 0, done.stderr
    assert "grad norm" in done.stdout
    assert str(alone) in done.stdout


def test_the_command_of_the_wheel_helps_and_says_what_it_lacks(alone):
    command = "from headwise.cli import main; sys.exit(main(sys.argv[1:]))"
    helped = run(alone, command, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "train" in helped.stdout
    lacking = run(alone, command, "train", "textsnake", "--out", str(alone / "run"))
    assert lacking.returncode != 0
    assert "headwise[" in lacking.stderr
    assert "Traceback" not in lacking.stderr


def test_the_wheel_holds_the_package_and_the_sdist_what_tests_it(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    inside = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/headwise").rglob("*") if path.is_file()}
    inside = {name for name in inside if "__pycache__" not in name}
    assert inside <= set(names)
    assert not [name for name in names if name.split("/")[0] in ("tests", "docs", "benchmarks")]
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        held = {"/".join(Path(name).parts[1:2]) for name in sdist.getnames()}
    assert {"src", "tests", "docs", "examples", "benchmarks", "README.md", "CHANGELOG.md", "LICENSE"} <= held


def test_twine_finds_no_fault(built):
    pytest.importorskip("twine", reason="twine is in the dependency group lint")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
