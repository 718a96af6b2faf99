"""torch.export programs, and how a network is traced: with a batch of any size."""

import io
from pathlib import Path

import torch
from torch import Tensor

from trainer.plain import AlexNet2012
from trainer.plain.architecture import STORED_SIZE
from trainer.plain.run_file import StoredNet, described

BATCH = torch.export.Dim("batch", min=1)
EXAMPLE = torch.zeros(2, 3, STORED_SIZE, STORED_SIZE, dtype=torch.uint8)  # of 2: 1 would be taken for a constant


def program_bytes(net: AlexNet2012, stored: StoredNet) -> bytes:
    """A .pt2 file; recipe and class names are extra files in it."""
    program = torch.export.export(net, (EXAMPLE,), dynamic_shapes={"images": {0: BATCH}})
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{name}.json": text for name, text in described(stored).items()})
    return file.getvalue()


def run_program(path: Path, images: Tensor) -> Tensor:
    """Logits of uint8 n x 3 x 256 x 256."""
    with path.open("rb") as file, torch.no_grad():
        logits: Tensor = torch.export.load(io.BytesIO(file.read())).module()(images)
    return logits
