"""Trained networks that answer together, on one device."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import CheckpointError, UsageError
from trainer.evaluation.trained import check_same_classes
from trainer.plain import AlexNet2012


class Networks:
    """One network, or several whose probabilities are averaged; `weights` need not add up to 1."""

    def __init__(
        self,
        runs: Sequence[Path],
        weights: Sequence[float],
        *,
        views: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Raises UsageError if a run is not there, CheckpointError if none of its checkpoints is valid, or runs know
        other classes.
        """
        nets = [_loaded(run) for run in runs]
        check_same_classes([(run, net.class_names) for run, net in zip(runs, nets, strict=True)])
        self.classes = nets[0].class_names
        self._members = [
            (str(run), net.to(device), weight / sum(weights))
            for run, net, weight in zip(runs, nets, weights, strict=True)
        ]
        self._views, self._device = views, device
        self._half = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    @torch.inference_mode()
    def probabilities(self, images_nhwc: Tensor) -> Tensor:
        """float32 n x classes, from uint8 n x 256 x 256 x 3. Raises CheckpointError if they are not finite."""
        images = images_nhwc.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        with self._half:
            of_members = [net.probabilities(images, self._views) * share for _, net, share in self._members]
        for (name, _, _), probabilities in zip(self._members, of_members, strict=True):
            if not bool(probabilities.isfinite().all()):
                raise CheckpointError(f"{name} answers with nan: training diverged before it was saved")
        return torch.stack(of_members).sum(dim=0)


def _loaded(run: Path) -> AlexNet2012:
    try:
        return AlexNet2012.from_run(run)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    except ValueError as error:
        hint = "" if run.is_dir() or run.suffix == ".safetensors" else "; the run comes first, then images"
        raise CheckpointError(f"{error}{hint}") from None
