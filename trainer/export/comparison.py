"""An exported file's answers beside the run's own, as alexnet-evaluate computes them, on drawn images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import AlexNetError
from common.spec import STORED_SIZE
from trainer.device.streams import Streams
from trainer.evaluation.trained import Placing, Trained, member_of

COUNT = 8
_BOUND = 1e-4
_BOUND_OF_HALVES = 1e-2  # the last bit of float32 decides at times which float16 crosses

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The run's own answers.

    images          uint8 n x 3 x 256 x 256
    probabilities   float32 n x classes, of the centre view
    bound           of a difference between probabilities
    """

    images: Tensor
    probabilities: Tensor
    bound: float

    @classmethod
    def of(cls, trained: Trained) -> "Reference":
        """Raises CheckpointError as `member_of` does."""
        member = member_of(trained, None, Placing(None, (_CPU, _CPU), torch.float32, Streams()))
        images = drawn_images()
        answers = member.probabilities({_CPU: images.permute(0, 2, 3, 1).contiguous()}, (1,))[1]
        return cls(images, answers, _BOUND if member.recipe.exchange == "same" else _BOUND_OF_HALVES)

    def compare(self, run: Callable[[Tensor], Tensor], what: str) -> float:
        """The largest difference between probabilities, of one image alone and of all together.

        run   logits of images

        Raises AlexNetError beyond the bound, or if an answer is no number.
        """
        logits = torch.cat([run(self.images[:1]), run(self.images[1:])])
        difference = float((logits.softmax(dim=1) - self.probabilities).abs().max())
        if not difference <= self.bound:
            raise AlexNetError(
                f"{what} is not written: its probabilities differ from the run's by {difference:.1e}, more than"
                f" {self.bound:.0e}, on drawn images"
            )
        return difference


def drawn_images() -> Tensor:
    """Coloured squares of 64 pixels under noise: uint8 COUNT x 3 x 256 x 256, the same ones each time."""
    draws = torch.Generator().manual_seed(0)
    squares = torch.rand(COUNT, 3, 4, 4, generator=draws).repeat_interleave(64, 2).repeat_interleave(64, 3)
    noise = torch.rand(COUNT, 3, STORED_SIZE, STORED_SIZE, generator=draws)
    return ((0.7 * squares + 0.3 * noise) * 255).to(torch.uint8)
