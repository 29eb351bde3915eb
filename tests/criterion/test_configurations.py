"""A configuration is data: code that is not Headwise's runs when the reader has said so, and not before."""

import inspect
import json

import pytest

import headwise as hw
from tests import expect as kit

PLANTED = """
import pathlib
pathlib.Path({flag!r}).write_text("ran")
def function(*arguments, **options):
    return 0.0
"""
HOW = ["from_dict", "from_json", "from_yaml"]


def declared(**changes):
    term = {"name": "alpha", "loss": "squared_error", "output": "x", "target": "y", **changes}
    return json.dumps({"terms": [term]})


NAMES = {
    "a schedule that raises SystemExit": declared(weight={"schedule": "sys:exit"}),
    "a schedule of levels": declared(output="x[*]", target="y[*]", levels={"weights": [{"schedule": "sys:exit"}]}),
    "a loss that runs commands": declared(loss={"name": "subprocess:check_output", "args": "touch flag"}),
    "a loss of os": declared(loss="os:system"),
    "a normalizer of builtins": declared(normalizer="builtins:eval"),
    "a module of the user": declared(loss="planted:function"),
    "a module that ends at import": declared(normalizer="planted_exit:function"),
    "a module that fails at import": declared(loss="planted_error:function"),
}


def options(how):
    """The words that could open the door."""
    return [name for name in inspect.signature(getattr(hw.Criterion, how)).parameters if name != "cls"][1:]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_foreign_code_is_refused(how, name, tmp_path, monkeypatch):
    """The refusal names the argument that allows it, and the term; no module was imported."""
    for module, end in {"planted": "", "planted_exit": "raise SystemExit(3)\n", "planted_error": "1 / 0\n"}.items():
        (tmp_path / f"{module}.py").write_text(PLANTED.format(flag=str(tmp_path / f"flag_{module}")) + end)
    monkeypatch.syspath_prepend(tmp_path)
    with kit.refused("alpha", *options(how)):
        getattr(hw.Criterion, how)(json.loads(NAMES[name]) if how == "from_dict" else NAMES[name])
    assert not list(tmp_path.glob("flag*")), "code ran while a configuration was read"


@pytest.mark.parametrize("how", HOW)
def test_it_can_be_allowed(how, tmp_path, monkeypatch):
    """By a yes, or by a list of modules."""
    (tmp_path / "planted_here.py").write_text("def function(output, target):\n    return (output - target).sum()\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = declared(loss="planted_here:function")
    assert options(how), f"{how} has no argument for it"
    for option in options(how):
        for value in (True, ["planted_here"], "planted_here"):
            try:
                criterion = getattr(hw.Criterion, how)(
                    json.loads(text) if how == "from_dict" else text, **{option: value}
                )
            except (ValueError, TypeError):
                continue
            assert criterion.terms[0].loss.__name__ == "function"
            return
    pytest.fail(f"none of {options(how)} allows it")


BAD = {
    "an empty module": declared(loss=":f"),
    "a relative module": declared(loss=".x:f"),
    "an unhashable schedule": declared(weight={"schedule": {}}),
    "a schedule every 0": declared(weight={"schedule": "StepDecay", "every": 0}),
    "a schedule of text": declared(weight={"schedule": "StepDecay", "initial": "a"}),
    "a schedule of a list": declared(weight={"schedule": "Linear", "start": [], "end": 1, "steps": 5}),
    "boundaries that are a number": declared(weight={"schedule": "Piecewise", "boundaries": 3, "values": 4}),
    "levels of text": declared(output="x[*]", target="y[*]", levels={"weights": "ab"}),
    "least that is null": declared(output="x[*]", target="y[*]", levels={"least": None, "pool": "all"}),
    "a name that is a list": declared(loss={"name": []}),
    "a weight that is a list": declared(weight=[]),
    "a number of 400 digits": declared(weight=10**400),
    "an output that is a number": declared(output=3),
    "a ratio that is text": declared(ratio="no"),
    "a schedule of 400 digits": declared(weight={"schedule": "Exponential", "initial": 1, "gamma": 10**400}),
    "normalize that is text": declared(output="x[*]", target="y[*]", levels={"normalize": "no"}),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named(case):
    """Once: TypeError, ZeroDivisionError, or a ValueError of Python's that names no term."""
    with kit.refused("alpha"):
        hw.Criterion.from_json(BAD[case])


@pytest.mark.parametrize("text", ["[" * 100000, '{"a":' * 3000, b"\xff\xfe", None, 3], ids=lambda text: repr(text)[:12])
@pytest.mark.parametrize("how", ["from_json", "from_yaml"])
def test_what_is_no_configuration(how, text):
    """Once: RecursionError, UnicodeDecodeError, TypeError. (A child would be slower; the depth is what matters.)"""
    if how == "from_yaml" and isinstance(text, str):
        text = text[:3000]
    with kit.refused("onfiguration"):
        getattr(hw.Criterion, how)(text)


def test_headwise_s_own_names_need_no_yes():
    """Always right; YAML's own way to run code is closed."""
    criterion = hw.Criterion.from_json(
        declared(loss={"name": "smooth_l1", "beta": 0.5}, weight={"schedule": "StepDecay"})
    )
    again = hw.Criterion.from_yaml(criterion.to_yaml())
    assert again.to_dict() == criterion.to_dict()
    with pytest.raises(ValueError, match="no YAML"):
        hw.Criterion.from_yaml('!!python/object/apply:os.system ["true"]')


@pytest.mark.parametrize("value", ["false", 1, None])
def test_a_wish_to_compile_is_true_or_false(value):
    """The text "false" compiled."""
    declaration = json.loads(declared()) | {"compile": value}
    with pytest.raises(ValueError, match=f"compile is True or False; found {value!r}"):
        hw.Criterion.from_dict(declaration)


TWICE = {
    "json": (
        "from_json",
        '{"terms": [{"name": "alpha", "loss": "squared_error", "weight": 1, "output": "x", "weight": 2}]}',
    ),
    "json, outside": ("from_json", '{"terms": [], "unread": ["a"], "unread": ["b"]}'),
    "yaml": ("from_yaml", "terms:\n- name: alpha\n  loss: squared_error\n  weight: 1\n  output: x\n  weight: 2\n"),
    "yaml, outside": ("from_yaml", "terms: []\nunread: [a]\nunread: [b]\n"),
    "yaml, in braces": ("from_yaml", "terms: [{name: alpha, weight: 1, weight: 2}]"),
}


@pytest.mark.parametrize("case", TWICE)
def test_what_is_given_twice_is_refused(case):
    """JSON and YAML would take the last of both in silence."""
    how, text = TWICE[case]
    with pytest.raises(
        ValueError, match=r"the configuration is no (JSON|YAML): (weight|unread): given twice, keep one"
    ):
        getattr(hw.Criterion, how)(text)


def test_anchors_and_merges_of_yaml_are_read():
    text = "terms:\n- &a {name: alpha, loss: squared_error, output: x, target: y}\n- {<<: *a, name: beta}\n"
    assert hw.Criterion.from_yaml(text).names == ("alpha", "beta")
