"""The record at each position of an epoch, and the position's own random numbers: from (seed, epoch, position) alone.

Only raw output of numpy's Philox4x64, and IEEE arithmetic that every machine rounds alike: no `log`, no `cos`, no
`Generator` method.
"""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.spec import STORED_SIZE, StreamSpec

Records = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Raw = npt.NDArray[np.uint64]

_BLOCK = 4  # 64-bit numbers that one step of Philox4x64's counter gives
_BLOCKS_PER_POSITION = 2
_DRAWS_PER_POSITION = _BLOCK * _BLOCKS_PER_POSITION  # six are used; a position's share never changes
_MOST_ORDERS, _ORDERS_BYTES = 64, 64 << 20  # twelve of ImageNet's, each as much work as a batch

_orders: dict[tuple[int, int, int], Records] = {}  # the latest used last


def order(records: int, seed: int, epoch: int) -> Records:
    """The epoch's permutation of 0..records - 1, uint32, read only.

    The latest two of each seed are kept, an epoch's and the next one's, of as many seeds as there is room for.
    """
    key = records, seed, epoch
    if (result := _orders.pop(key, None)) is None:
        for old in [other for other in _orders if other[:2] == key[:2]][:-1]:
            del _orders[old]
        result = _order(records, seed, epoch)
    _orders[key] = result
    while len(_orders) > 2 and (len(_orders) > _MOST_ORDERS or sum(map(len, _orders.values())) * 4 > _ORDERS_BYTES):
        del _orders[next(iter(_orders))]
    return result


def _order(records: int, seed: int, epoch: int) -> Records:
    """Sort one 64-bit key a record, random bits above the record's number: half the time of an argsort."""
    record_bits = np.uint64(max(records - 1, 1).bit_length())
    mask = (np.uint64(1) << record_bits) - np.uint64(1)
    keys = _philox("order", seed, epoch).random_raw(records)
    keys &= ~mask
    keys |= np.arange(records, dtype=np.uint64)
    keys.sort()
    keys &= mask
    result = keys.astype(np.uint32)
    result.flags.writeable = False
    return result


@functools.lru_cache(maxsize=1)
def record_order(records: int) -> Records:
    result = np.arange(records, dtype=np.uint32)
    result.flags.writeable = False
    return result


def order_of(spec: StreamSpec, records: int, epoch: int) -> Records:
    """The records at all positions of the stream's epoch, uint32, read only."""
    return order(records, spec.seed, epoch) if spec.shuffle else record_order(records)


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Random choices for each of n images.

    top, left   int64 n, offsets of the crop in pixels, 0..256 - crop
    flip        bool n
    offset      float64 n x 3, colour noise added to R, G and B, in units of 0..255
    """

    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    flip: npt.NDArray[np.bool_]
    offset: Floats


def draws_at(spec: StreamSpec, colour: Floats, epoch: int, first: int, count: int) -> Draws:
    """The draws of positions first..first + count - 1; `colour` is `Dataset.colour`."""
    generator = _philox("augment", spec.seed, epoch)
    generator.advance(first * _BLOCKS_PER_POSITION)
    raw = generator.random_raw(count * _DRAWS_PER_POSITION).reshape(count, _DRAWS_PER_POSITION)
    choices = STORED_SIZE - spec.crop + 1
    z = normal(raw[:, 3:6]) * spec.sigma
    # Written out, since a matrix product may round differently from one BLAS to the next.
    offset = z[:, 0:1] * colour[0] + z[:, 1:2] * colour[1] + z[:, 2:3] * colour[2]
    return Draws(_below(choices, raw[:, 0]), _below(choices, raw[:, 1]), (raw[:, 2] >> np.uint64(63)) == 1, offset)


def _philox(purpose: str, seed: int, epoch: int) -> np.random.Philox:
    """A generator keyed by a 128-bit hash, so that no seeds, epochs or purposes overlap."""
    text = f"alexnet stream 1|{purpose}|{seed}|{epoch}".encode()
    key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype="<u8")
    return np.random.Philox(key=key)


def _below(choices: int, raw: Raw) -> npt.NDArray[np.int64]:
    """Uniform integers 0..choices - 1 from the high 32 bits, by multiplication."""
    return (((raw >> np.uint64(32)) * np.uint64(choices)) >> np.uint64(32)).astype(np.int64)


def normal(raw: Raw) -> Floats:
    """Standard normal numbers, one for each 64-bit draw: Wichura's PPND16 (Applied Statistics algorithm AS 241)."""
    p = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # never 0 or 1
    q = p - 0.5
    centre = 0.180625 - q * q
    middle = q * _ratio(_CENTRAL, np.maximum(centre, 0.0))
    r = np.sqrt(-_log(np.minimum(p, 1.0 - p)))
    tail = np.where(r <= 5.0, _ratio(_NEAR_TAIL, r - 1.6), _ratio(_FAR_TAIL, r - 5.0))
    return np.where(centre >= 0.0, middle, np.where(q < 0.0, -tail, tail))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Floats) -> Floats:
    above, below = coefficients
    return _horner(above, x) / _horner(below, x)


def _horner(coefficients: tuple[float, ...], x: Floats) -> Floats:
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total


def _log(x: Floats) -> Floats:
    """Natural logarithm of positive numbers: x = m 2**e with m in [1/2, 1), log m = 2 artanh((m - 1) / (m + 1))."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _horner(_ARTANH, s * s)
    return 2.0 * s * series + (exponent - low) * 0.6931471805599453


_ARTANH = tuple(1.0 / (2 * k + 1) for k in range(12, -1, -1))

# Coefficients as printed in AS 241, highest power first.
_CENTRAL = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_NEAR_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip
