"""Every recipe and ablation as module, ONNX file, torch.export program and safetensors, beside the trainer's answers.

    python tests/bench/export.py [--width 0.25] [--only source]

A line for each network: the largest difference between its probabilities and those that alexnet-evaluate averages, on
drawn images, one view. Weights are drawn; logits spread by 2.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from tests.support.lively_nets import VARIANTS, save_lively, variant
from trainer.evaluation.trained import load_trained
from trainer.export.comparison import Reference
from trainer.export.export_run import run_weights, stored_net
from trainer.export.onnx_file import onnx_bytes, run_onnx
from trainer.export.traced import program_bytes, run_program
from trainer.plain import AlexNet2012
from trainer.plain.run_file import to_bytes

Run = Callable[[Path, Tensor], Tensor]


def differences(folder: Path, recipe: str, change: str, width: float) -> dict[str, float]:
    trained = load_trained(save_lively(folder, variant(recipe, change, width)))
    reference, stored = Reference.of(trained), stored_net(trained)
    net = AlexNet2012.of(stored)
    forms: dict[str, tuple[bytes, Run]] = {
        "onnx": (onnx_bytes(net, stored), run_onnx),
        "torch": (program_bytes(net, stored), run_program),
        "safetensors": (to_bytes(stored, {}), run_weights),
    }
    with torch.no_grad():
        found = {"module": reference.compare(net, "the module")}
    for form, (data, run) in forms.items():
        (folder / form).write_bytes(data)
        found[form] = reference.compare(partial(run, folder / form), form)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--only", help="one recipe")
    options = parser.parse_args()
    for recipe, change in VARIANTS:
        if options.only in (None, recipe):
            with tempfile.TemporaryDirectory() as folder:
                found = differences(Path(folder), recipe, change, options.width)
            columns = "  ".join(f"{form} {difference:.1e}" for form, difference in found.items())
            sys.stdout.write(f"{recipe:8} {change:16} {columns}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
