"""Entry points of `alexnet-trainer` and `alexnet-evaluate`."""

from common.cli.entry import Command, enter


def trainer() -> None:
    enter("alexnet-trainer", _trainer)


def evaluate() -> None:
    enter("alexnet-evaluate", _evaluate)


def _trainer() -> Command:
    from trainer.cli.train_command import main

    return main


def _evaluate() -> Command:
    from trainer.cli.evaluate_command import main

    return main
