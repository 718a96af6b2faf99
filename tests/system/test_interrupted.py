"""Ctrl-C in a command's first moments, while Python imports: one line and exit code 130, never a traceback."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
STARTS = {  # a way to start a command, and modules of which one is about to be imported when the signal comes
    "alexnet-pack --demo d": ("click.globals", "cv2"),
    "alexnet-loader": ("click.globals", "click.core", "loader.service.supervisor"),
    "alexnet-trainer --cpu --recipe demo": ("click.globals", "torch._C"),
    "alexnet-evaluate --cpu run": ("click.core", "torch.nn"),
    "alexnet-predict --cpu run .": ("click.core", "cv2"),
    "alexnet-report run": ("click.core", "torch.nn"),
    "alexnet-export run --to onnx --out net": ("torch.nn",),
    "-m loader.cli.pack_command --demo d": ("click.globals", "cv2"),
    "-m trainer.cli.train_command --cpu --recipe demo": ("click.globals", "torch._C"),
}


@pytest.mark.parametrize("start", STARTS)
def test_ctrl_c_while_python_imports_is_one_line_and_exit_code_130(start: str, tmp_path: Path) -> None:
    name, *options = start.split()
    program = [name, *options] if name == "-m" else [str(BIN / name), *options]
    for module in STARTS[start]:
        with subprocess.Popen(
            [sys.executable, "-X", "importtime", *program],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            seen = next((line for line in process.stderr if re.search(rf"\| +{re.escape(module)}$", line)), None)
            assert seen is not None, f"{start} never imported {module}"
            process.send_signal(signal.SIGINT)
            rest = [line for line in process.stderr if not line.startswith("import time:")]
        assert process.returncode == 130, rest
        assert len(rest) == 1, rest
        assert re.fullmatch(r"alexnet-\w+: interrupted\n", rest[0])
