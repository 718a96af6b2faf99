"""The views of a stored picture that a test looks at: its centre alone, or the paper's ten.

The ten are the four corners, the centre, and the mirror images of these. For crops of 224 the offsets are (0, 0),
(0, 32), (16, 16), (32, 0) and (32, 32), as in the program behind the paper; for 227 the last is 29, the centre's 14.
"""

from dataclasses import dataclass

from torch import Tensor

from common.spec import STORED_SIZE

MOST = 10


@dataclass(frozen=True, slots=True)
class View:
    """A square of a stored picture: the offsets of its upper left corner in pixels, and whether it is mirrored."""

    top: int
    left: int
    mirrored: bool = False

    def of(self, images_nhwc: Tensor, size: int) -> Tensor:
        """n x size x size x 3 from n x 256 x 256 x 3; where it is not mirrored, in the same memory."""
        cut = images_nhwc[:, self.top : self.top + size, self.left : self.left + size]
        return cut.flip(2) if self.mirrored else cut


def views(size: int) -> tuple[View, ...]:
    """The ten views of `size` pixels, the centre first: alone it is the test with one view."""
    far, middle = STORED_SIZE - size, (STORED_SIZE - size) // 2
    corners = [(middle, middle), (0, 0), (0, far), (far, 0), (far, far)]
    return tuple(View(top, left, mirrored) for mirrored in (False, True) for top, left in corners)
