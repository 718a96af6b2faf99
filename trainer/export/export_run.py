"""One alexnet-export: read a run, write a file, run it, compare, and only then put it in place."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.cli.outputs import whole_file
from common.errors import CheckpointError
from trainer.checkpoints.state import State
from trainer.device.devices import make_repeatable
from trainer.evaluation.trained import Trained, load_trained
from trainer.export.comparison import COUNT, Reference
from trainer.export.export_options import ExportOptions
from trainer.export.hub_folder import config_json, model_card
from trainer.export.onnx_file import onnx_bytes, run_onnx
from trainer.export.traced import program_bytes, run_program
from trainer.network.build import full_memory_as_error
from trainer.plain import AlexNet2012, Architecture
from trainer.plain.run_file import MEAN, StoredNet, read_file, to_bytes

log = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Exported:
    """A file in place; `difference` is the largest between its probabilities and the run's."""

    path: Path
    size: int
    difference: float

    def text(self) -> str:
        return (
            f"{self.path}: {self.size / 2**20:,.1f} MiB; on {COUNT} drawn images its probabilities are the run's"
            f" within {self.difference:.1e}"
        )


def export_run(options: ExportOptions) -> list[Exported]:
    """Export as `options` say. Raises any AlexNetError; then no file is left, and earlier ones stay."""
    options.refuse_impossible()
    make_repeatable(options.threads)
    with full_memory_as_error():
        trained = load_trained(options.run)
        stored = stored_net(trained)
        reference = Reference.of(trained)
        state = trained.state
        log.info(
            "%s: recipe %s, %d classes, step %d", trained.path, state.recipe.name, state.recipe.classes, state.step
        )
        return list(_exports(options, stored, state, reference))


def stored_net(trained: Trained) -> StoredNet:
    """The checkpoint's network. Raises CheckpointError if it has no mean image."""
    if trained.mean_hwc is None:
        raise CheckpointError(f"{trained.path} holds no mean image: an older version of the trainer wrote it")
    tensors = {**trained.weights, MEAN: trained.mean_hwc.permute(2, 0, 1).contiguous()}
    return StoredNet(trained.path, Architecture.of(asdict(trained.state.recipe)), trained.state.class_names, tensors)


def _exports(options: ExportOptions, stored: StoredNet, state: State, reference: Reference) -> Iterator[Exported]:
    metadata = {"step": str(state.step), "dataset": state.dataset}
    weights = partial(to_bytes, stored, metadata)
    if options.out is not None:
        net = _net(stored)
        contents, run = {
            "onnx": (partial(onnx_bytes, net, stored), run_onnx),
            "torch": (partial(program_bytes, net, stored), run_program),
            "safetensors": (weights, run_weights),
        }[options.to or ""]
        yield _export(options.out, contents, run, reference)
    if options.hub is not None:
        texts = {"config.json": config_json(stored, state), "README.md": model_card(stored, state)}
        yield _export_folder(options.hub, texts, weights, reference)


def _net(stored: StoredNet) -> AlexNet2012:
    try:
        return AlexNet2012.of(stored)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _export(
    path: Path, contents: Callable[[], bytes], run: Callable[[Path, Tensor], Tensor], reference: Reference
) -> Exported:
    log.info("writing %s", path)
    data = contents()
    with whole_file(path) as partial_file:
        partial_file.write_bytes(data)
        log.info("running it, to compare its answers with the run's")
        difference = reference.compare(partial(run, partial_file), str(path))
    return Exported(path, len(data), difference)


def _export_folder(folder: Path, texts: dict[str, str], weights: Callable[[], bytes], reference: Reference) -> Exported:
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with contextlib.ExitStack() as all_or_none:
            for name, text in texts.items():
                all_or_none.enter_context(whole_file(folder / name)).write_text(text, encoding="utf-8")
            return _export(folder / _WEIGHTS, weights, run_weights, reference)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def run_weights(path: Path, images: Tensor) -> Tensor:
    """Logits of a safetensors file's network."""
    with torch.no_grad():
        logits: Tensor = AlexNet2012.of(read_file(path))(images)
    return logits
