"""Names and words from outside never reach a terminal raw: of folders, keys, classes, and of a peer."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli import log as logs
from common.wire import keys, messages
from loader.cli.pack_command import main as pack
from loader.service.access import AllowList
from tests.support.lying_service import answering
from tests.support.photo_tree import make_tree
from trainer.cli.train_command import main as trainer

DRAWS = "\x1b[2J\u202e\x9b1m\nfake"
SHOWN = r"\x1b[2J\u202e\x9b1m\nfake"


def unwelcome(output: str) -> str:
    return "".join(character for character in output if character in DRAWS and not character.isprintable())


def test_names_that_would_draw_on_a_terminal_are_shown_as_their_codes_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, data = make_tree(tmp_path / "tree", 6), tmp_path / f"data{DRAWS}"
    (tree / "train" / "ape").rename(tree / "train" / "a\u202epe")
    packed = CliRunner().invoke(pack, [str(tree), str(data), "--jobs", "1"])
    info = CliRunner().invoke(pack, ["--info", "--verify", str(data)])
    none = CliRunner().invoke(pack, ["--info", str(tmp_path / f"none{DRAWS}")])
    hostile = messages.encode(messages.Fault(-1, b"", messages.REFUSED, DRAWS, messages.NO_RECORD))
    with answering(hostile) as endpoint:
        asked = [
            "--cpu",
            "--recipe",
            "demo",
            "--loader",
            endpoint,
            "--loader-timeout",
            "0.4",
            "--run",
            str(tmp_path / "r"),
        ]
        refused = CliRunner().invoke(trainer, asked)
    for told in (packed, info, none, refused):
        assert SHOWN in told.output
        assert unwelcome(told.output).replace("\n", "") == ""
        assert not any(line.startswith("fake") for line in told.output.splitlines())
    assert r"a\u202epe" in info.output
    assert (packed.exit_code, info.exit_code, none.exit_code, refused.exit_code) == (0, 0, 2, 1)

    logs.setup("alexnet-loader")
    keys.make(tmp_path / "keys")
    (tmp_path / "keys" / "clients" / f"{DRAWS}.key").write_text("no key")
    AllowList(keys.ServerKeys.read(tmp_path / "keys").allowed).read_if_changed()
    told_by_service = capsys.readouterr().err
    assert f"{SHOWN}.key" in told_by_service
    assert unwelcome(told_by_service).strip("\n") == ""
