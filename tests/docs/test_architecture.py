"""The table of rooms in docs/architecture.md is the one that import-linter holds, in its order."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = "Rooms import downwards only"


def documented() -> list[str]:
    """Every room of the table's first column, from the top."""
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def held() -> list[set[str]]:
    """The contract's layers, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["name"] == CONTRACT)
    return [{name.strip().removeprefix("headwise.") for name in layer.split("|")} for layer in layers]


def test_every_room_has_its_row_and_its_place():
    rooms, layers = documented(), held()
    assert sorted(rooms) == sorted(set().union(*layers))
    depth = {name: index for index, layer in enumerate(layers) for name in layer}
    assert [depth[name] for name in rooms] == sorted(depth[name] for name in rooms)


def test_every_file_and_folder_of_the_package_is_a_room_or_its_door():
    found = {path.stem for path in (ROOT / "src/headwise").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - {"__pycache__", "__init__", "__main__", "api", "py"} == set(documented())
