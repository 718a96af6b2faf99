"""Mean image and RGB components of the training set, from sums of integers, which are equal in any order."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE

MAX_IMAGES = 257  # whose sum a uint16 holds: 257 * 255 = 65535

_SHAPE = (STORED_SIZE, STORED_SIZE, 3)


@dataclass(eq=False)
class PartialSums:
    """Sums of at most `MAX_IMAGES` images, small enough to send.

    sum_hwc   uint16 256x256x3
    products  int64 3x3, sum over pixels of c_i * c_j
    """

    records: int = 0
    sum_hwc: npt.NDArray[np.uint16] = field(default_factory=lambda: np.zeros(_SHAPE, np.uint16))
    products: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 3), np.int64))

    def add(self, rgb_hwc: npt.NDArray[np.uint8]) -> None:
        # OpenCV: the service, which touches no pixel, starts without it.
        from common.images.pixels import channel_products

        assert self.records < MAX_IMAGES
        self.records += 1
        np.add(self.sum_hwc, rgb_hwc, out=self.sum_hwc)
        self.products += channel_products(rgb_hwc)


@dataclass(eq=False)
class Sums:
    """Sums of any number of images: uint64 holds 1e12 of them, int64 the products of 2e9."""

    records: int = 0
    sum_hwc: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_SHAPE, np.uint64))
    products: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 3), np.int64))

    def merge(self, part: PartialSums) -> None:
        self.records += part.records
        self.sum_hwc += part.sum_hwc
        self.products += part.products

    def to_bytes(self) -> bytes:
        head = np.array([self.records], "<u8").tobytes()
        return head + self.sum_hwc.astype("<u8").tobytes() + self.products.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Sums":
        sums = np.frombuffer(raw, "<u8", offset=8, count=int(np.prod(_SHAPE)))
        products = np.frombuffer(raw, "<i8", offset=8 + sums.nbytes, count=9)
        records = int(np.frombuffer(raw, "<u8", count=1)[0])
        return cls(records, sums.reshape(_SHAPE).astype(np.uint64), products.reshape(3, 3).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Stats:
    """Statistics of the training set, in units of pixel values, 0..255.

    mean_hwc    float32 256x256x3, mean image
    sd          float64 (3,), square roots of the eigenvalues of the RGB covariance over all pixels, ascending
    components  float64 (3, 3), row k the unit eigenvector (R, G, B) of sd[k]; its largest entry is positive
    """

    mean_hwc: npt.NDArray[np.float32]
    sd: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]

    @classmethod
    def of(cls, sums: Sums) -> "Stats":
        """The mean image and the principal components of all pixels' RGB values (section 4.1 of the paper)."""
        values, vectors = np.linalg.eigh(_covariance(sums))
        components = vectors.T.copy()
        for row in components:
            row *= np.copysign(1.0, row[np.argmax(np.abs(row))])
        mean_hwc = (sums.sum_hwc / np.float64(sums.records)).astype(np.float32)
        return cls(mean_hwc, np.sqrt(np.maximum(values, 0.0)), components)

    def to_fields(self) -> dict[str, bytes]:
        return {
            "mean_hwc": self.mean_hwc.astype("<f4").tobytes(),
            "sd": self.sd.astype("<f8").tobytes(),
            "components": self.components.astype("<f8").tobytes(),
        }

    @classmethod
    def from_fields(cls, fields: dict[str, bytes]) -> "Stats":
        return cls(
            np.frombuffer(fields["mean_hwc"], "<f4").reshape(_SHAPE),
            np.frombuffer(fields["sd"], "<f8").reshape(3),
            np.frombuffer(fields["components"], "<f8").reshape(3, 3),
        )


def _covariance(sums: Sums) -> npt.NDArray[np.float64]:
    """E[c_i c_j] - E[c_i] E[c_j] in exact integers, divided once at the end."""
    pixels = sums.records * STORED_SIZE**2
    totals = [int(total) for total in sums.sum_hwc.sum(axis=(0, 1))]
    return np.array(
        [[(pixels * int(sums.products[i, j]) - totals[i] * totals[j]) / pixels**2 for j in range(3)] for i in range(3)]
    )
