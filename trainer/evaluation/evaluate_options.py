"""The options of `alexnet-evaluate`, and which go together."""

from dataclasses import dataclass
from pathlib import Path

from common.cli.command_line import DEFAULT_TIMEOUT_S
from common.cli.outputs import STDOUT, refuse_unwritable
from common.errors import UsageError
from common.spec import Split

VIEW_COUNTS = {"1": (1,), "10": (10,), "both": (1, 10)}


@dataclass(frozen=True, kw_only=True)  # without slots, so that the defaults can be read off the class
class EvaluateOptions:
    """None is "not given". Each refusal is a UsageError."""

    checkpoints: tuple[Path, ...]
    split: Split = "val"
    views: str = "both"
    weights: str | None = None
    batch_size: int = 128
    limit: int | None = None
    confused: int = 5
    mistakes: int = 5
    json: Path | None = None
    predictions: Path | None = None
    ilsvrc: Path | None = None
    devkit: Path | None = None
    skipped: Path | None = None
    features: str | None = None
    out: Path | None = None
    gpus: str | None = None
    cpu: bool = False
    net: str | None = None
    precision: str | None = None
    loaders: tuple[str, ...] = ()
    loaders_file: Path | None = None
    keys: Path | None = None
    loader_timeout_s: float = DEFAULT_TIMEOUT_S
    threads: int | None = None

    @property
    def view_counts(self) -> tuple[int, ...]:
        return VIEW_COUNTS[self.views]

    def refuse_unwritable_files(self) -> None:
        """Refuse now, not after an hour of work."""
        files = {"--json": self.json, "--predictions": self.predictions, "--ilsvrc": self.ilsvrc}
        for option, path in files.items():
            if path is not None:
                refuse_unwritable(path, option)
        if len(on_stdout := [option for option, path in files.items() if path == STDOUT]) > 1:
            raise UsageError(f"{' and '.join(on_stdout)} cannot both be -: there is one stdout")
        if self.out is not None:
            for suffix in (".npy", ".labels.npy", ".records.npy", ".names.json"):
                refuse_unwritable(self.out.with_suffix(suffix), "--out", as_file=True)

    @property
    def fills_stdout(self) -> bool:
        """True if the table must leave stdout alone."""
        return STDOUT in (self.json, self.predictions, self.ilsvrc)

    def refuse_what_features_lack(self) -> tuple[Path, str]:
        """The features' path and layer."""
        if self.features is None or self.out is None:
            raise UsageError("--features and --out go together: --features fc7 --out FILE.npy")
        if self.out.suffix != ".npy":
            raise UsageError(f"--out {self.out}: it is a FILE.npy")
        if len(self.checkpoints) > 1:
            raise UsageError(f"--features are of one checkpoint, not of {len(self.checkpoints)}")
        others = {
            "--json": self.json,
            "--predictions": self.predictions,
            "--ilsvrc": self.ilsvrc,
            "--devkit": self.devkit,
            "--skipped": self.skipped,
            "--weights": self.weights,
        }
        if surplus := [option for option, given in others.items() if given is not None]:
            raise UsageError(f"{surplus[0]} does not go with --features, which writes features alone")
        return self.out, self.features

    def refuse_what_a_submission_lacks(self) -> None:
        if self.ilsvrc is None:
            if self.devkit is not None or self.skipped is not None:
                raise UsageError("--devkit and --skipped go with --ilsvrc FILE, which needs them")
        elif self.devkit is None:
            raise UsageError("--ilsvrc needs --devkit ILSVRC2012_devkit_t12.tar.gz, which numbers the classes")
        elif self.limit is not None or self.split != "val":
            raise UsageError("--ilsvrc is of all validation images; leave --limit out, and --split at val")

    @property
    def weight_of_each(self) -> list[float]:
        return weights_of(self.weights, len(self.checkpoints))


def weights_of(text: str | None, checkpoints: int) -> list[float]:
    """Weights of so many checkpoints from --weights, not normalised. Raises UsageError."""
    if text is None:
        return [1.0] * checkpoints
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--weights {text}: they are numbers with commas between, such as 1,1,2") from None
    if len(weights) != checkpoints:
        raise UsageError(f"--weights {text}: there are {len(weights)} for {checkpoints} checkpoints")
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
        raise UsageError(f"--weights {text}: they are 0 or more, and not all 0")
    return weights
