"""Entry points of the commands."""

from common.cli.entry import Command, enter

_NEEDS = ("trainer", ("click", "safetensors", "torch"))  # the extra, and what it installs


def trainer() -> None:
    enter("alexnet-trainer", _trainer, *_NEEDS)


def evaluate() -> None:
    enter("alexnet-evaluate", _evaluate, *_NEEDS)


def predict() -> None:
    enter("alexnet-predict", _predict, "trainer,images", (*_NEEDS[1], "cv2", "PIL", "turbojpeg"))


def _trainer() -> Command:
    from trainer.cli.train_command import main

    return main


def _evaluate() -> Command:
    from trainer.cli.evaluate_command import main

    return main


def _predict() -> Command:
    from trainer.cli.predict_command import main

    return main
