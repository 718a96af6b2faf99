"""Entry points of the commands."""

from common.cli.entry import Command, enter

_NEEDS = ("trainer", ("click", "safetensors", "torch"))  # the extra, and what it installs


def trainer() -> None:
    enter("alexnet-trainer", _trainer, *_NEEDS)


def evaluate() -> None:
    enter("alexnet-evaluate", _evaluate, *_NEEDS)


def _trainer() -> Command:
    from trainer.cli.train_command import main

    return main


def _evaluate() -> Command:
    from trainer.cli.evaluate_command import main

    return main
