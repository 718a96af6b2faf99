"""alexnet-pack as its users run it: real processes, killed for real."""

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from common.errors import DatasetError, PackError, UsageError
from common.imagenet.devkit import shuffled
from loader.cli.pack_command import main
from loader.dataset import Dataset
from loader.packing import discover
from tests.support.packing import COMMAND, pack_folder, packing
from tests.support.paths import ROOT
from tests.support.photo_tree import CLASSES, contents, make_tree, photo
from tests.support.processes import alive, children, command_line, lines_but_progress, wait_for

TRAIN, VAL = 1200, 100
INTERRUPTED = "alexnet-pack: interrupted; what is committed stays: run it again to resume"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("photos"), TRAIN, VAL, bad_every=50)


@pytest.fixture(scope="module")
def undisturbed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data") / "undisturbed"
    assert run_to_end(tree, data).returncode == 0
    return data


def run_to_end(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def workers(pid: int) -> list[int]:
    """The pool's processes; multiprocessing has a helper process beside them."""
    return [child for child in children(pid) if "spawn_main" in command_line(child)]


def written(path: Path, file_bytes: float) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_size >= file_bytes


def undisturbed_bytes(undisturbed: Path) -> int:
    return (undisturbed / "train.lmdb").stat().st_size


def test_a_pack_killed_at_many_moments_goes_on_to_the_same_data_set(
    tree: Path, undisturbed: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    whole = undisturbed_bytes(undisturbed)
    kills = 0
    for share in (0.0, 0.1, 0.3, 0.55, 0.8):
        with packing(tree, data) as process:
            reached = written(data / "train.lmdb", share * whole)
            wait_for(f"{share:.0%} of the file", lambda: reached() or process.poll() is not None)  # noqa: B023
            kills += process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        with pytest.raises(DatasetError, match="not finished|not a dataset"):
            Dataset(data / "train.lmdb")
    assert kills == 5
    done = run_to_end(tree, data)
    assert done.returncode == 0, done.stderr
    assert contents(data) == contents(undisturbed)


def test_a_killed_worker_ends_the_pack_with_one_line_and_running_again_goes_on(
    tree: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with packing(tree, tmp_path / "data") as process:
        wait_for("a third", written(tmp_path / "data" / "train.lmdb", undisturbed_bytes(undisturbed) / 3))
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was killed by SIGKILL while it packed train/" in errors
    assert "run the same command again" in errors
    assert len(lines_but_progress(errors)) == 1
    with pytest.raises(DatasetError, match=r"not finished \([1-9]"):
        Dataset(tmp_path / "data" / "train.lmdb")
    assert run_to_end(tree, tmp_path / "data").returncode == 0
    assert contents(tmp_path / "data") == contents(undisturbed)


def test_workers_end_when_their_parent_is_killed(tree: Path, undisturbed: Path, tmp_path: Path) -> None:
    with packing(tree, tmp_path / "data") as process:
        wait_for("a third", written(tmp_path / "data" / "train.lmdb", undisturbed_bytes(undisturbed) / 3))
        left = children(process.pid)
        assert len(workers(process.pid)) == 2
        process.kill()
        wait_for("its children to end", lambda: not any(alive(child) for child in left))
        assert lines_but_progress(process.communicate(timeout=60)[1]) == [], "they go without a word"


def test_ctrl_c_ends_the_pack_with_one_line_and_no_process_left(tree: Path, undisturbed: Path, tmp_path: Path) -> None:
    with packing(tree, tmp_path / "data") as process:
        wait_for("a third", written(tmp_path / "data" / "train.lmdb", undisturbed_bytes(undisturbed) / 3))
        left = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the workers too
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert lines_but_progress(errors) == [INTERRUPTED]
    wait_for("its children to end", lambda: not any(alive(child) for child in left))
    assert run_to_end(tree, tmp_path / "data").returncode == 0
    assert contents(tmp_path / "data") == contents(undisturbed)


def test_ctrl_c_while_the_workers_start_is_one_line_too(tree: Path, tmp_path: Path) -> None:
    with packing(tree, tmp_path / "data") as process:
        wait_for("a worker", lambda: workers(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert lines_but_progress(errors) == [INTERRUPTED]


def test_a_full_disk_is_a_clear_error_and_room_lets_it_go_on(tree: Path, undisturbed: Path, tmp_path: Path) -> None:
    limit = undisturbed_bytes(undisturbed) // 2

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    full = run_to_end("--commit", 32, tree, tmp_path / "data", preexec_fn=small_disk)
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "make room and run the same command again" in full.stderr
    assert run_to_end(tree, tmp_path / "data").returncode == 0
    assert contents(tmp_path / "data") == contents(undisturbed)


def test_the_number_of_processes_and_the_commits_change_nothing(tree: Path, undisturbed: Path, tmp_path: Path) -> None:
    pack_folder(tree, tmp_path / "data", jobs=3, commit_records=100)
    assert contents(tmp_path / "data") == contents(undisturbed)


def test_what_is_packed_is_every_picture_once_with_its_label(tree: Path, undisturbed: Path) -> None:
    bad = TRAIN // 50
    with Dataset(undisturbed / "train.lmdb") as dataset:
        assert dataset.records == TRAIN - bad
        assert dataset.classes == ("ape", "bee", "cat")
        labels = [dataset.read(record)[0] for record in range(dataset.records)]
        assert len({dataset.read(record)[1] for record in range(dataset.records)}) == dataset.records
        assert [fault for fault in dataset.verify() if fault] == []
    assert np.bincount(labels).tolist() == [400 - bad // 3, 400 - bad // 3, 400 - bad // 3]
    same_as_the_next = np.mean(np.diff(labels) == 0)
    assert 0.2 < same_as_the_next < 0.5, "neighbours are not of one class: shuffled"


def test_the_skipped_are_listed_with_split_name_and_reason(undisturbed: Path) -> None:
    entries = [json.loads(line) for line in (undisturbed / "skipped.jsonl").read_text().splitlines()]
    names = {(entry["split"], entry["name"]) for entry in entries}
    train_names = {("train", f"train/{CLASSES[i % 3]}/{i:05}.jpg") for i in range(0, TRAIN, 50)}
    val_names = {("val", f"val/{CLASSES[i % 3]}/{i:05}.jpg") for i in range(0, VAL, 50)}
    assert names == train_names | val_names
    assert {entry["reason"] for entry in entries} == {"Premature end of JPEG file"}


def test_validation_carries_the_training_sets_statistics_and_classes(undisturbed: Path) -> None:
    with Dataset(undisturbed / "train.lmdb") as train, Dataset(undisturbed / "val.lmdb") as val:
        np.testing.assert_array_equal(train.mean_hwc, val.mean_hwc)
        np.testing.assert_array_equal(train.components, val.components)
        assert train.classes == val.classes
        assert train.digest != val.digest
        assert val.split == "val"


def test_packing_again_says_complete_and_writes_nothing(tree: Path, undisturbed: Path) -> None:
    before = (undisturbed / "train.lmdb").stat().st_mtime_ns
    again = run_to_end(tree, undisturbed)
    assert again.returncode == 0
    assert again.stdout.count("already complete") == 2
    assert (undisturbed / "train.lmdb").stat().st_mtime_ns == before


def test_another_source_in_the_same_folder_is_refused_and_named(undisturbed: Path, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other", 6)
    with pytest.raises(UsageError, match=r"holds a val\.lmdb, but SOURCE has no val"):
        pack_folder(other, undisturbed)
    pack_folder(other, tmp_path / "data")
    (other / "train" / "cat" / "new.jpg").write_bytes(photo(7))
    with pytest.raises(UsageError, match=r"delete .*train\.lmdb"):
        pack_folder(other, tmp_path / "data")


def test_stop_at_a_bad_picture_names_it_and_keeps_what_came_before(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos", 90)
    last = int(shuffled(90, 2012)[-1])
    broken = tree / discover.sources(tree)["train"].name(last)
    sound = broken.read_bytes()
    broken.write_bytes(sound[:300])
    with pytest.raises(PackError, match=f"{broken.name} cannot be decoded: .*--on-bad skip"):
        pack_folder(tree, tmp_path / "data", on_bad="stop")
    with pytest.raises(DatasetError, match=r"not finished \(64 of 90"):
        Dataset(tmp_path / "data" / "train.lmdb")
    broken.write_bytes(sound)
    (summary,) = pack_folder(tree, tmp_path / "data", on_bad="stop")
    assert (summary.records, summary.packed, summary.skipped) == (90, 26, 0)


def test_a_source_with_nothing_to_decode_is_an_error(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos", 3, bad_every=1)
    with pytest.raises(PackError, match="none of the 3 images of train can be decoded"):
        pack_folder(tree, tmp_path / "data")
    assert len((tmp_path / "data" / "skipped.jsonl").read_text().splitlines()) == 3


def test_two_packs_into_one_folder_exclude_each_other(tree: Path, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another alexnet-pack is writing"):
            pack_folder(tree, tmp_path)
    finally:
        os.close(descriptor)


def test_a_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos", 3)
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.lmdb").write_bytes(b"my own notes" * 1000)
    with pytest.raises(DatasetError, match=r"train\.lmdb"):
        pack_folder(tree, data)
    assert (data / "train.lmdb").read_bytes() == b"my own notes" * 1000


def test_a_plain_tar_packs_to_the_same_data_set_as_its_folder(tree: Path, undisturbed: Path, tmp_path: Path) -> None:
    archive = tmp_path / "photos.tar"
    subprocess.run(["tar", "cf", archive, "-C", tree, "."], check=True)
    pack_folder(archive, tmp_path / "data")
    assert contents(tmp_path / "data") == contents(undisturbed)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_stands_in_place_of_a_data_set_and_is_no_file_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / "train.lmdb"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match=r"train\.lmdb is not a regular file"):
        pack_folder(make_tree(tmp_path / "photos", 3), tmp_path / "data")


def test_real_photos_pack_and_verify(tmp_path: Path) -> None:
    photos = os.environ.get("ALEXNET_PHOTOS")
    folder = Path(photos) if photos else ROOT.parent / "shared" / "data"
    if not (folder / "imagenet-photos.tar").exists():
        pytest.skip(f"no imagenet-photos.tar in {folder}; ALEXNET_PHOTOS names its folder")
    (summary,) = pack_folder(folder / "imagenet-photos.tar", tmp_path / "data")
    assert (summary.records, summary.classes, summary.skipped) == (100, 100, 0)
    with Dataset(tmp_path / "data" / "train.lmdb") as dataset:
        assert [fault for fault in dataset.verify() if fault] == []
        assert 90 < dataset.mean_hwc.mean() < 140


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give SOURCE and DATA"),
        (["one"], "give SOURCE and DATA"),
        (["one", "two", "three"], "give SOURCE and DATA"),
        (["not-there", "data"], "not-there does not exist; SOURCE holds train/<class>/*"),
        (["--demo"], "--demo takes only DATA"),
        (["--demo", "one", "two"], "--demo takes only DATA"),
        (["--info", "not-there"], "holds neither train.lmdb nor val.lmdb"),
        (["--info", "--demo", "data"], "--demo cannot be used with --info"),
        (["--verify", "data"], "--verify goes with --info"),
        (["--json", "one", "two"], "--json goes with --info"),
        (["--json", "--demo", "data"], "--json goes with --info"),
        (["--json", "--info", "not-there"], "holds neither train.lmdb nor val.lmdb"),
        (["--jobs", "0", "a", "b"], "--jobs"),
        (["--on-bad", "hope", "a", "b"], "--on-bad"),
        (["--fast", "a", "b"], "--fast"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(arguments: list[str], told: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert told in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_info_describes_and_verify_names_a_damaged_record(undisturbed: Path, tmp_path: Path) -> None:
    sound = run_to_end("--info", "--verify", undisturbed)
    assert sound.returncode == 0
    with Dataset(undisturbed / "train.lmdb") as dataset:
        assert dataset.digest.hex() in sound.stdout
        stored, name = dataset.read(77)[1], dataset.name(77).decode()
    assert re.fullmatch(r"(ape|bee|cat)/\d{5}\.jpg", name)
    assert "names       of all files, such as " in sound.stdout
    raw = bytearray((undisturbed / "train.lmdb").read_bytes())
    raw[raw.index(stored) + len(stored) // 2] ^= 1
    (tmp_path / "train.lmdb").write_bytes(raw)
    damaged = run_to_end("--info", "--verify", tmp_path)
    assert damaged.returncode == 1
    assert f"1 of 1,176 records are damaged: 77 ({name}): checksum" in damaged.stderr
    damaged = run_to_end("--info", "--json", "--verify", tmp_path)
    assert damaged.returncode == 1
    ((record,),) = [split["damaged"] for split in json.loads(damaged.stdout)["splits"].values()]
    assert (record["record"], record["name"]) == (77, name)


def test_info_as_json_holds_all_that_the_text_tells(undisturbed: Path) -> None:
    done = run_to_end("--info", "--json", undisturbed)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["data"] == str(undisturbed)
    for split, of in told["splits"].items():
        with Dataset(undisturbed / f"{split}.lmdb") as dataset:
            assert (of["records"], of["digest"]) == (dataset.records, dataset.digest.hex())
            assert [each["name"] for each in of["classes"]] == list(dataset.classes)
            assert sum(each["records"] for each in of["classes"]) == dataset.records
            assert [each["sd"] for each in of["components"]] == dataset.sd.tolist()
            assert of["bytes"] == dataset.path.stat().st_size
            assert of["items"] == of["records"] + of["skipped"]
        assert of["first_name"] in run_to_end("--info", undisturbed).stdout
        assert of["damaged"] is None


def test_the_demo_goes_the_same_way(tmp_path: Path) -> None:
    done = run_to_end("--demo", "--demo-train", 40, "--demo-val", 20, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    with Dataset(tmp_path / "data" / "train.lmdb") as train, Dataset(tmp_path / "data" / "val.lmdb") as val:
        assert (train.records, val.records, len(train.classes)) == (40, 20, 10)


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from loader.cli.pack_command import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'cv2', 'lmdb', 'PIL', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60).returncode == 0
