"""Who may import what, read from the sources: every import, also inside functions, and every dotted name."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import common
from tests.support.paths import ROOT

PACKAGES = ("common", "loader", "trainer")
SECOND_NAMED = ("common", "trainer/plain")  # alexnet_client, alexnet2012

NEVER = {
    "common": ("loader", "trainer", "torch", "lmdb"),
    "loader": ("trainer", "torch"),
    "trainer": ("loader", "lmdb", "turbojpeg", "simplejpeg", "cv2"),
}
LAYERS = (
    "plain",
    "recipes",
    "device",
    "kernels",
    "ops",
    "network",
    "ranks",
    "feeding",
    "checkpoints",
    "evaluation",
    "predicting",
    "export",
    "training",
    "reporting",
    "cli",
)  # each imports those before it
NEVER_IN = {
    "common": ("common.torch",),
    "common/wire": ("common.client", "common.images"),
    "common/cli": ("common.client", "common.images", "common.wire"),
    "common/client": ("common.images",),
    "common/imagenet": ("common.client", "common.images", "common.wire"),
    "common/images": ("common.client", "common.wire"),
    "loader": (
        "common.client",
        "common.torch",
        *(f"common.{name}" for name in common.__all__),
    ),  # which load the client
    "loader/packing": ("common.wire", "loader.service", "loader.workers"),
    "loader/workers": ("loader.service", "loader.packing"),
    "loader/service": ("loader.packing",),
    "loader/monitoring": ("loader.packing", "loader.service", "loader.workers", "common.wire"),
    "trainer": ("common.torch",),
    "trainer/plain": ("common", "numpy", "click"),  # users copy the folder
}  # by folder
MAY = {"common/torch.py": ("torch",)}  # the users' adapter, against NEVER
ONLY_IN = {
    "lmdb": {"loader/lmdb_file.py"},
    "turbojpeg": {"common/images/codec.py"},
    "simplejpeg": {"common/images/codec.py"},
    "cv2": {"common/images/pixels.py"},
    "prometheus_client": {"loader/monitoring/exposition.py"},
    "PIL": {"common/images/image_file.py", "common/images/stored.py"},
    "click": {
        "common/cli/options.py",
        *(
            path.relative_to(ROOT).as_posix()
            for side in ("loader", "trainer")
            for path in (ROOT / side / "cli").glob("*.py")
        ),
    },
    "triton": {path.relative_to(ROOT).as_posix() for path in (ROOT / "trainer/kernels").glob("*.py")},
    "zmq": {
        "common/client/client.py",
        "common/client/host.py",
        "common/wire/keys.py",
        "common/wire/sockets.py",
        "loader/service/access.py",
        "loader/service/inbox.py",
        "loader/service/listening.py",
        "loader/service/service.py",
        "loader/service/session.py",
    },
    "jinja2": {"trainer/reporting/page.py"},
    "markupsafe": {"trainer/reporting/page.py"},
    "matplotlib": {"trainer/reporting/drawing.py"},
    "xxhash": {"common/digest.py", "trainer/plain/run_file.py"},
    "scipy": set[str](),  # the tests' alone
    "safetensors": {"trainer/checkpoints/files.py", "trainer/plain/run_file.py"},
    "torch.cuda.Stream": {"trainer/device/streams.py"},
    "torch.cuda.Event": {"trainer/device/streams.py"},
    "torch.cuda.stream": {"trainer/device/streams.py"},
    "torch.Stream": {"trainer/device/streams.py"},
    "torch.Event": {"trainer/device/streams.py"},
    "onnx": set[str](),  # torch's exporter needs it
    "onnxruntime": {"trainer/export/onnx_file.py"},
    "torch.onnx": {"trainer/export/onnx_file.py"},
    "torch.distributed": {path.relative_to(ROOT).as_posix() for path in (ROOT / "trainer/ranks").glob("*.py")},
    "torch.utils.tensorboard": {"trainer/training/board.py"},
    "pickle": set[str](),
    "importlib.import_module": set[str](),  # would get past this file
    "__import__": set[str](),
}


def names_used(path: str, source: str) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import and of every attribute chain or name, aliases resolved."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = absolute(path, node)
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{module}.{alias.name}"
                yield f"{module}.{alias.name}", node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            yield aliases.get(first, first) + dot + rest, node.lineno


def absolute(path: str, node: ast.ImportFrom) -> str:
    """The module that is imported from. Within folders that have a second name, imports are relative."""
    own = next((folder for folder in SECOND_NAMED if path.startswith(f"{folder}/")), None)
    imports_own = own is not None and f"{node.module}.".startswith(f"{own.replace('/', '.')}.")
    assert node.level == 0 or own, f"{path}: imports are absolute"
    assert node.level > 0 or not imports_own, f"{path}: imports in {own} are relative"
    above = path.split("/")[: -node.level] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def never(path: str) -> list[str]:
    """Names that the file may not import."""
    package, room, *_ = path.split("/")
    names = [name for name in NEVER[package] if name not in MAY.get(path, ())]
    for folder, others in NEVER_IN.items():
        names += others if path.startswith(folder + "/") else ()
    if package == "loader" and room != "cli":
        names.append("loader.cli")
    if package == "trainer" and room in LAYERS:
        names += [f"trainer.{layer}" for layer in LAYERS[LAYERS.index(room) + 1 :]]
    return names


def breaches(path: str, source: str) -> list[str]:
    """Forbidden names that the file `path` (relative to the root) uses."""
    found = set()
    for name, line in names_used(path, source):
        forbidden = [*never(path), *(only for only, files in ONLY_IN.items() if path not in files)]
        found |= {f"{path}:{line} {what}" for what in forbidden if name == what or name.startswith(what + ".")}
    return sorted(found)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_every_file_stays_on_its_side() -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in sources()]
    assert [breach for path in paths for breach in breaches(path, (ROOT / path).read_text())] == []


def test_every_folder_of_the_trainer_has_its_place_among_the_layers() -> None:
    assert {path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py")} == set(LAYERS)
    assert [path for path in sources() if len(path.relative_to(ROOT).parts) > 3] == []


def test_the_files_that_rules_name_are_there() -> None:
    named = sorted(set().union(*ONLY_IN.values(), MAY))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_two_files_and_no_two_classes_share_a_name() -> None:
    files = [path.name for path in sources() if path.name != "__init__.py"]
    classes = [
        node.name
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    for names in (files, classes):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_no_test_imports_from_a_test_module() -> None:
    """Shared code is in tests/support, so that each test module can be moved, split or deleted alone."""
    imports = re.compile(r"(?:from|import) tests\.(?:\w+\.)*test_\w+")
    found = {path.name: imports.findall(path.read_text()) for path in (ROOT / "tests").rglob("*.py")}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "form",
    [
        "import {}",
        "import {}.part",
        "import {} as other",
        "from {} import part",
        "from {}.part import thing as other",
        "def f():\n    import {}",
        "if TYPE_CHECKING:\n    from {} import part",
    ],
)
def test_each_forbidden_import_is_found_in_every_form(form: str) -> None:
    forbidden = [(package, name) for package, names in NEVER.items() for name in names]
    forbidden += [(package, name) for package in PACKAGES for name in ONLY_IN if "." not in name and name[0] != "_"]
    unseen = [each for each in forbidden if not breaches(f"{each[0]}/some.py", form.format(each[1]))]
    assert unseen == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ns = torch.cuda.Stream()",
        "import torch.cuda\ne = torch.cuda.Event(enable_timing=True)",
        "import torch.cuda as cuda\nwith cuda.stream(None): pass",
        "from torch import cuda\ns = cuda.Stream()",
        "from torch.cuda import Stream",
        "import torch as t\ndef f(s: 't.Tensor'): return t.Event()",
        "import importlib\nimportlib.import_module('lmdb')",
        "__import__('lmdb')",
    ],
)
def test_streams_and_dynamic_imports_are_found_behind_any_alias(source: str) -> None:
    assert breaches("trainer/some.py", source) != []


def test_an_import_from_a_layer_above_is_found() -> None:
    upward = [(low, f"trainer.{high}") for place, low in enumerate(LAYERS) for high in LAYERS[place + 1 :]]
    unseen = [each for each in upward if not breaches(f"trainer/{each[0]}/some.py", f"from {each[1]} import some")]
    assert unseen == []


def test_an_import_that_a_folder_alone_may_not_make_is_found() -> None:
    laws = [(folder, name) for folder, names in NEVER_IN.items() for name in names]
    laws += [(folder, "loader.cli") for folder in ("loader/service", "loader/workers", "loader/packing")]
    here = {law: "." * (law[0].count("/") + 1) for law in laws}  # common, where imports are relative
    source = {
        law: f"from {law[1].replace('common.', here[law]) if law[0][:6] == 'common' else law[1]} import s"
        for law in laws
    }
    assert [law for law in laws if not breaches(f"{law[0]}/some.py", source[law])] == []


def test_what_is_allowed_is_not_found() -> None:
    assert breaches("trainer/training/some.py", "from trainer.network.net import Net") == []
    assert breaches("trainer/cli/train_command.py", "from trainer.training.train_options import TrainOptions") == []
    assert breaches("trainer/device/streams.py", "import torch\ns = torch.cuda.Stream()") == []
    assert breaches("loader/lmdb_file.py", "import lmdb") == []
    assert breaches("common/torch.py", "import torch\nfrom .client.client import LoaderClient") == []
    assert (
        breaches(
            "trainer/some.py", "import torch\nfrom common.client.client import LoaderClient\ntorch.cuda.device_count()"
        )
        == []
    )
    assert breaches("loader/some.py", "from loader import loaders\ntorchlight = trainers = 1") == []
