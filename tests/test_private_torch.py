"""The private parts of torch that we read are all listed, and there: if one of these fails, torch has moved it."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import headwise
from headwise.graph import PRIVATE_ATTRIBUTES, PRIVATE_NAMES

SOURCE = Path(headwise.__file__).parent
OF_PYTHON = {"_asdict", "_fields", "_replace", "_getframe", "_exit"}
"""Of named tuples, sys and os: documented, for all their underscore."""


def is_private(name: str) -> bool:
    return name.startswith("_") and name != "_" and not name.startswith("__")


def own_names(trees: list[ast.AST]) -> set[str]:
    """The attributes that classes of ours define or assign."""
    found: set[str] = set()
    for node in (each for tree in trees for each in ast.walk(tree)):
        if isinstance(node, ast.ClassDef):
            found |= {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            targets: list[ast.expr] = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            targets += [target for each in node.body if isinstance(each, ast.Assign) for target in each.targets]
            found |= {each.id for each in targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else set()
    return found


def foreign_names(tree: ast.AST, own: set[str]) -> Iterator[tuple[int, str]]:
    """The private names that are read from something that is not ours: as attributes, by text, by import."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if mine or node.attr in own else [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [*(node.module or "").split("."), *(each.name for each in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for each in node.names if each.name.startswith("torch") for part in each.name.split(".")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            text = node.args[1]
            names = [str(text.value)] if isinstance(text, ast.Constant) and text.value not in own else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names = [node.value] if node.value.startswith(("_saved_", "_raw_saved_")) else []
        yield from ((getattr(node, "lineno", 0), name) for name in names if is_private(name) and name not in OF_PYTHON)


def unlisted(files: list[Path], listed: set[str]) -> list[str]:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    own = own_names(list(trees.values())) - listed
    return [
        f"{path.name}:{line}: {name}"
        for path, tree in trees.items()
        for line, name in foreign_names(tree, own)
        if name not in listed
    ]


LISTED = {name for names in PRIVATE_ATTRIBUTES.values() for name in names}
LISTED |= {part for name in PRIVATE_NAMES for part in name.split(".") if is_private(part)}


def test_every_private_name_of_torch_in_the_source_is_listed():
    found = unlisted(sorted(SOURCE.rglob("*.py")), LISTED)
    assert not found, f"list these in headwise.graph, with what they are read for: {found}"


@pytest.mark.parametrize(
    "line",
    [
        "x._base", "torch._C._hidden()", "getattr(node, '_saved_thing')", "from torch._export import config",
        "import torch._dynamo", "saved(node, '_saved_weight')", "from torch.nn.modules.conv import _ConvNd",
    ],
)  # fmt: skip
def test_an_unlisted_one_is_found(line, tmp_path):
    (tmp_path / "planted.py").write_text(f"class Own:\n    _mine: int\n\n\nOwn()._mine\n{line}\n")
    assert len(set(unlisted([tmp_path / "planted.py"], LISTED))) == 1


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_is_there(name):
    owner, _, own = name.rpartition(".")
    if own not in getattr(pkgutil.resolve_name(owner), "__annotations__", {}):  # a field, that only instances have
        pkgutil.resolve_name(name)


def test_the_number_of_the_backward_pass():
    """`criterion/junctions/sink.py` keeps what readers leave behind apart by it."""
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
    """`losses/parts/fused.py` and `criterion/junctions/sink.py` write in place only where nothing is batched."""
    assert not torch._C._are_functorch_transforms_active()
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch._C._are_functorch_transforms_active())
        return x

    torch.func.vmap(look)(torch.ones(2))
    assert seen == [True]
    assert torch._C._functorch.is_legacy_batchedtensor(torch.ones(2)) is False


def test_recomputation_can_be_asked_for():
    """`criterion/sums/kernels.py` asks the partitioner of compiled graphs to recompute."""
    import torch._functorch.config as config

    before = config.aggressive_recomputation
    with config.patch(aggressive_recomputation=True):
        assert config.aggressive_recomputation is True
    assert config.aggressive_recomputation == before
