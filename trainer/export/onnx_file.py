"""ONNX: written by torch's exporter, run by ONNX Runtime."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UsageError
from trainer.export.traced import BATCH, EXAMPLE
from trainer.plain import AlexNet2012
from trainer.plain.run_file import StoredNet, described

INPUT, OUTPUT = "images", "logits"

_OPSET = 18  # the exporter's own; ONNX Runtime has run it since 1.14
_MOST_BYTES = 2**31 - 2**24  # a protobuf message ends at 2 GiB
_ASIDES = {
    "onnx_ir": logging.WARNING,
    "onnxscript": logging.WARNING,
    "onnxscript.optimizer._constant_folding": logging.ERROR,  # a node that it leaves as it is
    "torch.onnx._internal.exporter._registration": logging.ERROR,  # torchvision is not installed
}
_ABOUT = "AlexNet (2012). images: uint8 N x 3 x 256 x 256, RGB, as stored; logits: float32 N x classes"


def onnx_bytes(net: AlexNet2012, stored: StoredNet) -> bytes:
    """The network with a free batch size; recipe and class names in its metadata. Raises UsageError beyond 2 GiB."""
    if (size := sum(each.nbytes for each in stored.tensors.values())) > _MOST_BYTES:
        raise UsageError(f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds 2; --to torch takes any")
    with _without_the_exporter_s_asides():
        program = torch.onnx.export(
            net,
            (EXAMPLE,),
            dynamo=True,
            dynamic_shapes={INPUT: {0: BATCH}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.doc_string = _ABOUT
    program.model.metadata_props.update(described(stored))
    return bytes(program.model_proto.SerializeToString())


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """Logits of uint8 n x 3 x 256 x 256, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
    return torch.from_numpy(logits)


@contextmanager
def _without_the_exporter_s_asides() -> Iterator[None]:
    """Silence what is not about the network: rewritings of the graph, operators of torchvision, torch's own code."""
    levels = {logging.getLogger(name): level for name, level in _ASIDES.items()}
    before = {logger: logger.level for logger in levels}
    try:
        for logger, level in levels.items():
            logger.setLevel(level)
        with warnings.catch_warnings():  # a deprecated check, in torch's copying of its trees
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
