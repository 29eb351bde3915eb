"""A Gram prints as a table, like every other table of attribution."""

from headwise.attribution.gram import Gram, Where


def test_it_prints_as_a_table():
    squares = {("box", "maps"): 1.0, ("class", "maps"): 4.0, ("mask", "other"): 9.0}
    values, weights = {"box": 1.0, "class": 2.0, "mask": 0.5}, {"box": 1.0, "class": 0.5, "mask": 1.0}
    table = Gram.of_pairs(squares, {("box", "class", "maps"): -1.0}, values, weights, Where(step=3))
    head, names, _, *rows = str(table).splitlines()
    assert head == "step 3, local, at outputs, exact"
    assert " ".join(names.split()) == "term value weight share norm with box with class with mask"
    assert [row.split() for row in rows] == [
        ["box", "1", "1", "40.0%", "1", "-0.50"],
        ["class", "2", "0.5", "40.0%", "2", "-0.50"],
        ["mask", "0.5", "1", "20.0%", "3"],
    ]
    assert repr(table) == str(table)
