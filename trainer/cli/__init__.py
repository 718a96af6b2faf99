"""Entry points of the commands."""

from common.cli.entry import Command, enter

_NEEDS = ("trainer", ("click", "safetensors", "torch"))  # the extra, and what it installs


def trainer() -> None:
    enter("alexnet-trainer", _trainer, *_NEEDS)


def evaluate() -> None:
    enter("alexnet-evaluate", _evaluate, *_NEEDS)


def predict() -> None:
    enter("alexnet-predict", _predict, "trainer,images", (*_NEEDS[1], "cv2", "PIL", "turbojpeg"))


def report() -> None:
    enter("alexnet-report", _report, "trainer,report", (*_NEEDS[1], "jinja2", "matplotlib"))


def export() -> None:
    enter("alexnet-export", _export, *_NEEDS)


def _trainer() -> Command:
    from trainer.cli.train_command import main

    return main


def _evaluate() -> Command:
    from trainer.cli.evaluate_command import main

    return main


def _predict() -> Command:
    from trainer.cli.predict_command import main

    return main


def _report() -> Command:
    from trainer.cli.report_command import main

    return main


def _export() -> Command:
    from trainer.cli.export_command import main

    return main
