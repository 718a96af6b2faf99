"""Tables and files of alexnet-evaluate, from given figures."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.answers import Answers, Confusion, Mistake, answer_rows
from trainer.evaluation.intervals import wilson
from trainer.evaluation.results import EvaluationReport, write_jsonl
from trainer.evaluation.validation import Evaluation

REPORT = EvaluationReport(
    split="val",
    dataset="ab",
    records=50,
    classes=("ape", "bee"),
    rows=[("net", {1: Evaluation(0.5, 0.25, 1.5, 40), 10: Evaluation(0.375, 0.125, 1.25, 40)})],
    weights=[1.0],
    confusions=[Confusion(label=1, taken_for=0, count=5, of_label=20)],
    mistakes=[Mistake(7, label=1, taken_for=0, probability=0.9375), Mistake(8, 0, 1, 0.5)],
    names={3: "bee/3.jpg", 7: "bee/\x1b7.jpg", 8: ""},
    bad=[3],
    seconds=2.0,
    waited_s=0.5,
)


def test_each_figure_stands_below_its_head() -> None:
    assert REPORT.text().splitlines() == [
        "val: 40 of 50 images of 2 classes, 1 corrupt records left out; 20 images/s, waiting for data 25.0 %",
        "",
        "                          1 view                                          10 views",
        "      top-1 error         95 %  top-5 error    log p   top-1 error         95 %  top-5 error    log p",
        "net        50.0 %   35.2..64.8       25.0 %   -1.500        37.5 %   24.2..53.0       12.5 %   -1.250",
        "",
        "most confused",
        "  bee taken for ape: 25.0 % of bee (5 of 20)",
        "",
        "most confident mistakes",
        "  bee/\\x1b7.jpg: bee taken for ape, 93.8 %",
        "  record 8: ape taken for bee, 50.0 %",
    ]


def test_the_object_holds_the_same_figures() -> None:
    def of(top1: float, top5: float, log_probability: float) -> dict[str, object]:
        errors: dict[str, object] = {"top1_error": top1, "top5_error": top5, "log_probability": log_probability}
        return errors | {"top1_interval": list(wilson(top1, 40)), "top5_interval": list(wilson(top5, 40))}

    assert REPORT.to_dict() == {
        "split": "val",
        "dataset": "ab",
        "records": 50,
        "images": 40,
        "classes": 2,
        "bad_records": [3],
        "bad_files": ["bee/3.jpg"],
        "images_per_s": 20.0,
        "wait_share": 0.25,
        "weights": [1.0],
        "results": [
            {
                "name": "net",
                "views": {
                    "1": of(0.5, 0.25, -1.5),
                    "10": of(0.375, 0.125, -1.25),
                },
            }
        ],
        "confused": [
            {"label": 1, "taken_for": 0, "count": 5, "of_label": 20, "class": "bee", "taken_for_class": "ape"}
        ],
        "mistakes": [
            {
                "record": 7,
                "label": 1,
                "taken_for": 0,
                "probability": 0.9375,
                "name": "bee/\x1b7.jpg",
                "class": "bee",
                "taken_for_class": "ape",
            },
            {
                "record": 8,
                "label": 0,
                "taken_for": 1,
                "probability": 0.5,
                "name": "",
                "class": "ape",
                "taken_for_class": "bee",
            },
        ],
    }


@given(st.integers(1, 100_000), st.floats(0, 1))
def test_an_interval_holds_its_share_and_is_wilson_s(images: int, share: float) -> None:
    low, high = wilson(share, images)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        assert abs(bound - share) <= 1.96 * math.sqrt(bound * (1 - bound) / images) + 1e-6


def test_an_interval_covers_19_times_in_20() -> None:
    found = np.random.default_rng(0).binomial(500, 0.056, 20_000)
    bounds = np.array([wilson(wrong / 500, 500) for wrong in range(501)])
    held = (bounds[found, 0] <= 0.056) & (bounds[found, 1] >= 0.056)
    assert 0.93 < held.mean() < 0.97


def test_what_a_spoilt_net_answers_is_null_in_json(tmp_path: Path) -> None:
    spoilt = replace(REPORT, rows=[("net", {1: Evaluation(1.0, 1.0, float("nan"), 40)})])
    assert spoilt.to_dict()["results"][0]["views"]["1"]["log_probability"] is None
    answers = Answers(1, 2)
    answers.take_in(np.array([0]), np.array([1]), answer_rows(torch.full((1, 2), float("nan")), torch.tensor([1])))
    write_jsonl(tmp_path / "p.jsonl", {1: answers}, ("ape", "bee"))
    (line,) = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    answer = line["views"]["1"]
    assert (line["class"], answer["rank"], answer["probability"]) == ("bee", 0, None)
    assert [one["probability"] for one in answer["likeliest"]] == [None, None]
