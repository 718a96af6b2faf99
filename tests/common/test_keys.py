"""Key files: for the owner alone, never overwritten, and damaged ones named."""

import os
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner

from common.errors import UsageError
from common.wire import keys
from common.wire.keys import ClientKeys, ServerKeys
from loader.service.access import AllowList


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_both_sides_read_the_folder_that_was_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "keys"
    made = keys.make(folder)
    server, client = ServerKeys.read(folder), ClientKeys.read(folder)
    assert client.server == zmq.curve_public(server.secret)
    assert keys.public_key(server.allowed / "client.key") == zmq.curve_public(client.secret)
    assert sorted(str(path.relative_to(folder)) for path, _ in made) == sorted(contents(folder))


def test_files_and_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    keys.make(folder)
    keys.make(folder, "bob")
    modes = {path: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def test_another_client_gets_a_folder_of_its_own_and_changes_no_other_key(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    before = contents(tmp_path / "keys")
    keys.make(tmp_path / "keys", "bob")
    after = contents(tmp_path / "keys")
    assert set(after) - set(before) == {"clients/bob.key", "bob/server.key", "bob/client.key_secret"}
    assert before.items() <= after.items()
    first, bob = ClientKeys.read(tmp_path / "keys"), ClientKeys.read(tmp_path / "keys" / "bob")
    assert first.server == bob.server
    assert first.secret != bob.secret


@pytest.mark.parametrize("client", ["client", "bob", "clients"])
def test_nothing_is_overwritten(tmp_path: Path, client: str) -> None:
    keys.make(tmp_path / "keys")
    keys.make(tmp_path / "keys", "bob")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="already"):
        keys.make(tmp_path / "keys", client)
    assert contents(tmp_path) == before


def test_keys_are_not_mixed_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="dedicated folder for keys"):
        keys.make(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


@pytest.mark.parametrize("name", ["server.key_secret", "client.key_secret", "server.key"])
@pytest.mark.parametrize("damage", ["missing", "empty", "not a key", "impossible key"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    keys.make(tmp_path / "keys")
    path = tmp_path / "keys" / name
    path.unlink()
    text = {"empty": "", "not a key": 'public-key = "short"\n', "impossible key": f'public-key = "{"#" * 40}"\n'}
    if damage != "missing":
        path.write_text(text[damage])
        path.chmod(0o600)
    with pytest.raises(UsageError, match=f"{name}.*--keys"):
        (ServerKeys if name == "server.key_secret" else ClientKeys).read(tmp_path / "keys")


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    (tmp_path / "keys" / "client.key_secret").chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        ClientKeys.read(tmp_path / "keys")


@pytest.mark.parametrize("name", ["", "clients", "server.key_secret", "clients/client.key"])
@pytest.mark.parametrize("fault", ["written by others", "another user"])
def test_keys_that_another_user_could_change_are_refused_as_ssh_does(tmp_path: Path, name: str, fault: str) -> None:
    keys.make(tmp_path / "keys")
    path = tmp_path / "keys" / name
    if fault == "another user":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 65534, 65534)
    else:
        path.chmod(0o777)
    with pytest.raises(UsageError, match=f"{path} .*{fault}.*--keys"):
        keys.public_key(path) if name.startswith("clients/") else ServerKeys.read(tmp_path / "keys")


def test_a_fifo_or_a_device_among_the_keys_is_waited_for_by_nobody(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    os.mkfifo(tmp_path / "keys" / "clients" / "x.key", 0o600)
    (tmp_path / "keys" / "clients" / "zero.key").symlink_to("/dev/zero")
    allowed = AllowList(ServerKeys.read(tmp_path / "keys").allowed)
    allowed.read_if_changed()
    client = keys.public_key(tmp_path / "keys" / "clients" / "client.key")
    assert allowed.name_of(client) == "client"


def test_the_command_names_every_file_and_what_to_do_next(tmp_path: Path) -> None:
    from loader.cli.serve_command import main

    done = CliRunner().invoke(main, ["keys", str(tmp_path / "keys")])
    assert done.exit_code == 0, done.output
    for path in contents(tmp_path):
        assert path in done.output
    assert f"alexnet-trainer --keys {tmp_path / 'keys'}" in done.output.splitlines()[-1]
    again = CliRunner().invoke(main, ["keys", str(tmp_path / "keys")])
    assert again.exit_code == 2
