import json
import math
from typing import Any

import pytest

from headwise.attribution.gram import Gram
from headwise.attribution.ledger.books import Books, LevelBooks, OutputBooks, TermBooks
from headwise.runs.log import JsonLines, RunLog, step_entry


def books(value: float = 2.0, finite: bool = True) -> Books:
    def term(name: str) -> TermBooks:
        outputs = {f"maps[{name}]": OutputBooks(0.5, finite)}
        levels = {"stacks[0]": LevelBooks(value, value / 2, 0.5, 0.25, finite)} if name == "sin" else {}
        return TermBooks(value, 0.5, value / 2, 0.5, 0.25, finite, True, outputs, levels)

    squares, products = {("sin", "x"): 1.0, ("cos", "x"): 1.0}, {("sin", "cos", "x"): -0.5}
    gram = Gram.of_pairs(
        squares, products, dict.fromkeys(("sin", "cos", "radius"), 1.0), dict.fromkeys(("sin", "cos", "radius"), 1.0)
    )
    return Books(3, {"sin": term("sin"), "cos": term("cos"), "radius": term("r")}, gram)


def entry(step: int, value: float = 2.0) -> dict[str, Any]:
    return step_entry(step, books(value, math.isfinite(value)), time=1.5, images_per_second=8.0, learning_rate=0.1)


def test_a_line_has_the_form_that_reports_read():
    assert json.loads(json.dumps(entry(4)))["terms"]["sin"] == {
        "value": 2.0,
        "weight": 0.5,
        "weighted": 1.0,
        "share": 0.5,
        "grad_norm": 0.25,
        "finite": True,
        "outputs": {"maps[sin]": {"grad_norm": 0.5, "finite": True}},
        "levels": {"stacks[0]": {"value": 2.0, "weighted": 1.0, "share": 0.5, "grad_norm": 0.25, "finite": True}},
    }
    assert entry(4)["terms"]["cos"]["levels"] == {}
    assert entry(4)["cosine"] == {"sin|cos": -0.5}, "pairs that share nothing are left out"
    assert entry(4)["total"] == 3.0


def test_lines_after_the_checkpoint_are_forgotten(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path, 0)
    for step in range(1, 6):
        log.write({"step": step})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 2, "cut sh')
    JsonLines(path, 3).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_what_is_not_finite_is_text(tmp_path):
    log = RunLog(tmp_path, 0)
    log.step(entry(1, math.nan))
    log.close()
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["terms"]["sin"]["value"] == "nan"
    assert line["terms"]["sin"]["grad_norm"] == 0.25


def test_tensorboard_has_every_term(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0)
    log.step(entry(1))
    log.evaluation(1, {"iou50": {"precision": 0.5, "recall": 0.25, "f": 1 / 3}, "num_images": 4})
    log.sync()
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/total", "sin/value", "sin/share", "cos/grad_norm", "cosine/sin|cos", "evaluation/iou50/f"} <= tags
    assert events.Scalars("sin/weighted")[0].value == 1.0
    assert json.loads((tmp_path / "evaluation.jsonl").read_text())["num_images"] == 4


def test_a_row_per_class_is_in_the_file_alone(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0)
    log.evaluation(1, {"coco": {"ap": 0.5, "ap_small": math.nan}, "per_class": {"cat": {"ap": math.nan}}})
    log.sync()
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"evaluation/coco/ap", "evaluation/coco/ap_small"}
    line = json.loads((tmp_path / "evaluation.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["per_class"] == {"cat": {"ap": "nan"}}
