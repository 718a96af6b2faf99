"""Tables and files of alexnet-evaluate, from given figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainer.evaluation.answers import Answers, Confusion, answer_rows
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
    bad=[3],
    seconds=2.0,
    waited_s=0.5,
)


def test_each_figure_stands_below_its_head() -> None:
    assert REPORT.text().splitlines() == [
        "val: 40 of 50 images of 2 classes, 1 corrupt records left out; 20 images/s, waiting for data 25.0 %",
        "",
        "                    1 view                             10 views",
        "      top-1 error  top-5 error    log p   top-1 error  top-5 error    log p",
        "net        50.0 %       25.0 %   -1.500        37.5 %       12.5 %   -1.250",
        "",
        "most confused",
        "  bee taken for ape: 25.0 % of bee (5 of 20)",
    ]


def test_the_object_holds_the_same_figures() -> None:
    assert REPORT.to_dict() == {
        "split": "val",
        "dataset": "ab",
        "records": 50,
        "images": 40,
        "classes": 2,
        "bad_records": [3],
        "images_per_s": 20.0,
        "wait_share": 0.25,
        "weights": [1.0],
        "results": [
            {
                "name": "net",
                "views": {
                    "1": {"top1_error": 0.5, "top5_error": 0.25, "log_probability": -1.5},
                    "10": {"top1_error": 0.375, "top5_error": 0.125, "log_probability": -1.25},
                },
            }
        ],
        "confused": [
            {"label": 1, "taken_for": 0, "count": 5, "of_label": 20, "class": "bee", "taken_for_class": "ape"}
        ],
    }


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
