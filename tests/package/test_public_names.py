"""The public names with their signatures, recorded: whoever changes one says so in the changelog.

``python -m tests.package.test_public_names`` writes the record anew, if `CHANGELOG.md` names what changed under
"Unreleased".
"""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("public_names.txt")
ROOMS = (
    "api", "attribution", "backward", "coders.anchors", "coders.corners", "criterion", "data", "evaluation", "losses",
    "networks", "normalizers", "presets", "recipes", "report", "runs", "runs.alerts",
    "runs.comparing", "testing", "training", "training.callbacks",
)  # fmt: skip
OPTIONAL = ("balance",)


def rooms():
    present = [room for room in OPTIONAL if importlib.util.find_spec(f"headwise.{room}")]
    return [*ROOMS, *present]


def public_names():
    """One line a name: where it is, and its parameters."""
    lines = []
    for room in rooms():
        module = importlib.import_module(f"headwise.{room}")
        lines += [f"{room}.{name}{_parameters(getattr(module, name))}" for name in names_of(module)]
    return sorted(lines)


def names_of(module):
    """What a room gives: its ``__all__``, or what it defines itself."""
    own = (name for name, found in vars(module).items() if getattr(found, "__module__", "") == module.__name__)
    return getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]


def _parameters(found):
    if inspect.ismodule(found) or not callable(found):
        return ""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return "(...)"
    given = [each for each in signature.parameters.values() if not each.name.startswith("_")]
    return "(" + ", ".join(map(_parameter, given)) + ")"


def _parameter(parameter):
    """Its name, as it may be given; what is not needed has an equals sign. Types and values are not recorded."""
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    only = "keyword " if parameter.kind is inspect.Parameter.KEYWORD_ONLY else ""
    return f"{only}{star}{parameter.name}" + ("" if parameter.default is inspect.Parameter.empty else "=")


def recorded():
    return RECORD.read_text(encoding="utf-8").splitlines()


def changed(before, after):
    """The last part of each name that is new, gone or other than it was."""
    return sorted({line.split("(")[0].rpartition(".")[2] for line in set(before) ^ set(after)})


def unsaid(names, changelog):
    """The names that stand nowhere in what the changelog says of the next release."""
    unreleased = changelog.partition("## Unreleased")[2].partition("\n## ")[0]
    return [name for name in names if not re.search(rf"\b{re.escape(name)}\b", unreleased)]


def test_public_names_are_as_recorded():
    names = changed(recorded(), public_names())
    assert not names, (
        f"public names changed: {', '.join(names)}. Name them in CHANGELOG.md under Unreleased, then run "
        "python -m tests.package.test_public_names"
    )


def test_a_change_is_seen_and_must_be_said():
    before = ["losses.dice(output, keyword smooth=)", "losses.pull(left)"]
    after = ["losses.dice(output, keyword eps=)", "losses.push(left)"]
    assert changed(before, after) == ["dice", "pull", "push"]
    said = "# Changelog\n\n## Unreleased\n\n- `dice(eps=)`, `push` for `pull`.\n\n## 0.1\n"
    assert unsaid(["dice", "pull", "push"], said) == []
    assert unsaid(["dice", "pushed"], said) == ["pushed"]


def test_every_public_name_has_a_docstring():
    without = []
    for room in rooms():
        module = importlib.import_module(f"headwise.{room}")
        for name in names_of(module):
            found = getattr(module, name)
            if callable(found) and not inspect.getdoc(found):
                without.append(f"{room}.{name}")
    assert not without


def test_every_room_has_a_page_of_the_site():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"automodule:: headwise\.([\w.]+)", pages))
    missing = [room for room in rooms() if not any(each == room or each.startswith(f"{room}.") for each in shown)]
    assert not set(missing) - {"api", "recipes"}  # the core's page, and the command's


if __name__ == "__main__":
    new = public_names()
    names = changed(recorded(), new) if RECORD.exists() else []
    missing = unsaid(names, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if missing:
        sys.exit(f"CHANGELOG.md does not name, under Unreleased: {', '.join(missing)}")
    RECORD.write_text("\n".join(new) + "\n", encoding="utf-8")
