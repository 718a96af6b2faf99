"""The options of `alexnet-export`, and which go together."""

from dataclasses import dataclass
from pathlib import Path

from common.cli.entry import need
from common.cli.outputs import refuse_unwritable
from common.errors import UsageError

FORMATS = ("onnx", "torch", "safetensors")
HUB_FILES = ("config.json", "model.safetensors", "README.md")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """None is "not given"."""

    run: Path
    to: str | None = None
    out: Path | None = None
    hub: Path | None = None
    threads: int | None = None

    def refuse_impossible(self) -> None:
        """Raise UsageError now, before any work."""
        if (self.to is None) != (self.out is None):
            raise UsageError("--to and --out go together: --to onnx --out net.onnx")
        if self.to is None and self.hub is None:
            raise UsageError("give --to FORMAT and --out FILE, or --hub DIR, or both")
        if self.to == "onnx":
            need(["onnx", "onnxruntime", "onnxscript"], "export")
        if self.out is not None:
            refuse_unwritable(self.out, "--out", as_file=True)
        if self.hub is not None:
            _refuse_unusable(self.hub)


def _refuse_unusable(folder: Path) -> None:
    if not folder.exists():
        refuse_unwritable(folder, "--hub", as_file=True)  # its parent, then
    elif not folder.is_dir():
        raise UsageError(f"{folder} cannot be written: it is not a folder (--hub)")
    else:
        for name in HUB_FILES:
            refuse_unwritable(folder / name, "--hub", as_file=True)
