"""The options of `alexnet-report`, and which go together."""

from dataclasses import dataclass
from pathlib import Path

from common.cli.command_line import DEFAULT_TIMEOUT_S
from common.cli.outputs import refuse_unwritable
from common.errors import UsageError


@dataclass(frozen=True, kw_only=True)  # without slots, so that the defaults can be read off the class
class ReportOptions:
    """None is "not given". Each refusal is a UsageError."""

    runs: tuple[Path, ...]
    out: Path = Path("report.html")
    figures: Path | None = None
    reach: float = 25.0
    watch: bool = False
    every_s: float = 10.0
    pictures: int = 8
    mistakes: int = 12
    val_images: int = 10_000
    train_images: int = 10_000
    data: Path | None = None
    gpus: str | None = None
    cpu: bool = False
    net: str | None = None
    batch_size: int = 64
    loaders: tuple[str, ...] = ()
    loaders_file: Path | None = None
    keys: Path | None = None
    loader_timeout_s: float = DEFAULT_TIMEOUT_S
    threads: int | None = None

    @property
    def has_images(self) -> bool:
        return self.data is not None or bool(self.loaders) or self.loaders_file is not None

    def refuse_what_excludes_each_other(self) -> None:
        if self.data is not None and (self.loaders or self.loaders_file is not None):
            raise UsageError("--data starts a loader of its own; leave --loader and --loaders out, or --data")
        if self.data is not None and self.keys is not None:
            raise UsageError("--keys are for --loader; the loader of --data serves this command alone")
        if self.data is not None and not self.data.is_dir():
            raise UsageError(f"--data {self.data} is not a folder that alexnet-pack wrote")
        if len({run.resolve() for run in self.runs}) < len(self.runs):
            raise UsageError("a run is given twice")

    def refuse_unwritable_files(self) -> None:
        """Refuse now, not after minutes of work; makes the folder of --figures."""
        refuse_unwritable(self.out, "--out", as_file=self.watch)
        if self.figures is not None:
            try:
                self.figures.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"{self.figures} cannot be made: {error.strerror} (--figures)") from None
            refuse_unwritable(self.figures / "error.svg", "--figures", as_file=True)
