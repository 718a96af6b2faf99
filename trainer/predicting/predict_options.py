"""The options of `alexnet-predict`, and which go together."""

from dataclasses import dataclass
from pathlib import Path

from common.cli.outputs import STDOUT, refuse_unwritable
from common.errors import UsageError
from trainer.evaluation.evaluate_options import weights_of


@dataclass(frozen=True, kw_only=True)  # without slots, so that the defaults can be read off the class
class PredictOptions:
    """None is "not given". Each refusal is a UsageError.

    others   further runs of an ensemble
    """

    run: Path
    images: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    weights: str | None = None
    views: int = 1
    top: int = 5
    words: Path | None = None
    batch_size: int = 128
    json: Path | None = None
    csv: Path | None = None
    gpus: str | None = None
    cpu: bool = False
    precision: str | None = None
    threads: int | None = None

    @property
    def runs(self) -> tuple[Path, ...]:
        return (self.run, *self.others)

    @property
    def weight_of_each(self) -> list[float]:
        return weights_of(self.weights, len(self.runs))

    @property
    def files(self) -> dict[str, Path]:
        """Output files by option."""
        return {option: path for option, path in (("--json", self.json), ("--csv", self.csv)) if path is not None}

    @property
    def fills_stdout(self) -> bool:
        """True if the table must leave stdout alone."""
        return STDOUT in self.files.values()

    def refuse_unwritable_files(self) -> None:
        """Refuse now, not after an hour of work."""
        for option, path in self.files.items():
            refuse_unwritable(path, option)
        if len(self.files) > 1 and self.json == self.csv:
            raise UsageError(f"--json and --csv cannot both be {self.json}")
