"""Whatever is wrong in a recipe's file is one line that says what, with exit code 2."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner

from trainer.cli.train_command import main
from trainer.recipes.bounds import Range
from trainer.recipes.layers import Conv, Linear
from trainer.recipes.named import SOURCE
from trainer.recipes.recipe import Phase, Plateau, Recipe
from trainer.recipes.recipe_file import read, to_toml

WHOLE = re.sub("  # .*", "", to_toml(replace(SOURCE, plateau=Plateau())))  # every field, without its meaning
SECTIONS = {Recipe: "", Conv: "[[conv]]", Linear: "[[fc]]", Phase: "[[phase]]", Plateau: "[plateau]"}


def edited(section: str, key: str, literal: str) -> str:
    """The whole file with one field changed in the first table of that kind; "" is what stands above all tables."""
    start = WHOLE.index(section)
    changed, times = re.subn(rf"^{key} = .*$", f"{key} = {literal}", WHOLE[start:], count=1, flags=re.MULTILINE)
    assert times == 1, f"{section} {key}"
    return WHOLE[:start] + changed


def refusal(path: Path | str, *options: str) -> str:
    """The one line of stderr with which the command refuses a recipe, with exit code 2 and nothing on stdout."""
    result = CliRunner().invoke(main, ["--recipe", str(path), "--show-recipe", *options])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"alexnet-trainer: error: --recipe {path}")
    return result.stderr.rstrip("\n")


def refused(text: str | bytes, folder: Path) -> str:
    (path := folder / "bad.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return refusal(path).partition("bad.toml")[2]


def ranges() -> Iterator[tuple[Any, str, type, Range]]:
    for kind in SECTIONS:
        for field in fields(kind):
            for range_ in getattr(field.type, "__metadata__", ()):
                yield kind, field.name, int if get_type_hints(kind)[field.name] is int else float, range_


def literals_outside(number: type, range_: Range) -> Iterator[str]:
    if number is float:
        yield from ("nan", "inf", "-inf", "1e+31", "-1e+31")
    if range_.ge is not None:
        yield str(range_.ge - 1 if number is int else math.nextafter(range_.ge, -math.inf))
    if range_.le is not None:
        yield str(range_.le + 1 if number is int else math.nextafter(range_.le, math.inf))
    yield from (str(number(bound)) for bound in (range_.gt, range_.lt) if bound is not None)
    if range_.odd:
        yield "4"


OUTSIDE = [
    (kind, name, literal) for kind, name, number, range_ in ranges() for literal in literals_outside(number, range_)
]


@pytest.mark.parametrize(("kind", "name", "literal"), OUTSIDE, ids=[f"{k.__name__}-{n}-{v}" for k, n, v in OUTSIDE])
def test_a_number_out_of_its_range_is_named_with_the_range(kind: type, name: str, literal: str, tmp_path: Path) -> None:
    assert re.search(
        rf"\b{name} is {re.escape(literal)}; it is \w+", refused(edited(SECTIONS[kind], name, literal), tmp_path)
    )


def test_every_number_of_a_recipe_has_a_range() -> None:
    with_range = {(kind, name) for kind, name, _, _ in ranges()}
    for kind in SECTIONS:
        for name, hint in get_type_hints(kind).items():
            if hint in (int, float) or (float in getattr(hint, "__args__", ()) and name != "layer_rates"):
                assert (kind, name) in with_range
    assert len(with_range) > 30


def test_every_whole_number_of_a_recipe_is_bounded_above() -> None:
    assert [
        f"{kind.__name__}.{name}" for kind, name, number, range_ in ranges() if number is int and not range_.le
    ] == []


@pytest.mark.parametrize(
    ("section", "key", "most"),
    [
        ("[[conv]]", "channels", 65536),
        ("[[conv]]", "kernel", 256),
        ("[[fc]]", "units", 65536),
        ("", "classes", 1000000),
        ("", "crop", 256),
        ("", "batch_size", 16384),
        ("", "epochs", 100000),
    ],
)
def test_a_size_with_some_digits_too_many_is_refused_by_name_and_bound(
    section: str, key: str, most: int, tmp_path: Path
) -> None:
    assert f"{key} is 10000000; it is " in (line := refused(edited(section, key, "10000000"), tmp_path))
    assert line.endswith(f", at most {most}")


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (Range(ge=0, lt=1), (0, 0.999), (-1e-9, 1)),
        (Range(gt=0, le=16), (1e-300, 16), (0, 16.01)),
        (Range(ge=1, odd=True), (1, 5), (-1, 0, 4)),
        (Range(), (-1e30, 0, 1e30), (float("nan"), float("inf"), -1.1e30, 1.1e30)),
        (Range(ge=0), (0, 1e30), (1.1e30,)),
    ],
)
def test_a_range_ends_where_it_says(range_: Range, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert all(range_.holds(value) for value in inside)
    assert not any(range_.holds(value) for value in outside)


def test_a_rate_of_a_layer_out_of_its_range_is_named(tmp_path: Path) -> None:
    for literal in ("nan", "inf", "-0.1", "1e+308"):
        line = refused(edited("[[phase]]", "layer_rates", f"{{ conv1 = {literal} }}"), tmp_path)
        assert line == f": phase of epoch 0: layer_rates.conv1 is {literal}; it is 0 or more, at most 1e+30"


WRONG = {
    "a misspelt field": (
        ("", "momentum", "0.9\nmomentun = 0.5"),
        ": momentun: there is no such field; momentum is meant?",
    ),
    "a misspelt field of a layer": (
        ("[[conv]]", "kernel", "11\nchanels = 3"),
        ": conv[0].chanels: there is no such field; channels is meant?",
    ),
    "a field like no other": (
        ("[plateau]", "drops", "3\nxyz = 3"),
        ": plateau.xyz: there is no such field; there are factor, drops, patience, threshold",
    ),
    "a field below the tables": (
        ("[[fc]]", "units", "9\nepochs = 3"),
        ": fc[0].epochs: there is no such field; epochs is the recipe's own: it stands above the first [table]",
    ),
    "true for a number": (("", "momentum", "true"), ": momentum is True; it is a number"),
    "true for a whole number": (("", "epochs", "true"), ": epochs is True; it is a whole number"),
    "true for one of some numbers": (("", "columns", "true"), ": columns is True; it is 1 or 2"),
    "a fraction for one of some numbers": (("", "columns", "2.0"), ": columns is 2.0; it is 1 or 2"),
    "a fraction for a whole number": (("", "epochs", "2.0"), ": epochs is 2.0; it is a whole number"),
    "a number for a truth": (("", "decay_biases", "1"), ": decay_biases is 1; it is true or false"),
    "a number for a text": (("", "name", "1"), ": name is 1; it is a text"),
    "a text for a number": (("[[phase]]", "rate", '"fast"'), ": phase[0].rate is 'fast'; it is a number"),
    "a date for a number": (
        ("", "width", "2012-12-03"),
        ": width is datetime.date(2012, 12, 3); it is a number",
    ),
    "another text than those": (("", "activation", '"gelu"'), ": activation is 'gelu'; it is 'relu' or 'tanh'"),
    "another text than he": (
        ("[[fc]]", "weight_std", '"she"'),
        ": fc[0].weight_std is 'she'; it is a number or 'he'",
    ),
    "a text for a list": (("[[conv]]", "then", '"pool"'), ": conv[0].then is 'pool'; it is a list"),
    "an operation that is none": (
        ("[[conv]]", "then", '["pol"]'),
        ": conv[0].then[0] is 'pol'; it is 'activation' or 'lrn' or 'spatial' or 'pool'",
    ),
    "a number for a table": (("[[phase]]", "layer_rates", "0.1"), ": phase[0].layer_rates is 0.1; it is a table"),
    "a text for a layer's rate": (
        ("[[phase]]", "layer_rates", '{ conv1 = "no" }'),
        ": phase[0].layer_rates.conv1 is 'no'; it is a number",
    ),
    "a whole number beyond all floats": (
        ("", "lrn_k", "1" + 400 * "0"),
        ": lrn_k is a whole number beyond all floats",
    ),
    "a name that is a path": (
        ("", "name", '"../up"'),
        ": name is '../up'; a folder is called so: it is of letters, digits and . _ + -",
    ),
    "a name with a blank": (
        ("", "name", '"my own"'),
        ": name is 'my own'; a folder is called so: it is of letters, digits and . _ + -",
    ),
    "a phase that names no layer": (
        ("[[phase]]", "layer_rates", "{ conv9 = 0.1 }"),
        ": the phase of epoch 0 has a rate for conv9, which is no layer",
    ),
    "phases in no order": (
        ("[[phase]]", "first_epoch", "30"),
        ": phases begin at epochs [30, 24, 50, 66, 71, 78]; the first is 0, and they rise",
    ),
    "a first rate of 0": (("[[phase]]", "rate", "0"), ": the first phase's rate is 0: nothing would be learnt"),
    "two layers of a name": (
        ("[[conv]]", "name", '"conv2"'),
        ": layers are conv2, conv2, conv3, conv4, conv5, fc6, fc7, fc8: at least one conv and one fc, each with a name"
        " of its own",
    ),
    "a name with a dot": (
        ("[[conv]]", "name", '"conv.1"'),
        ": a layer is called 'conv.1'; a name is of letters, digits and _",
    ),
    "no layer that reads the image": (
        ("[[conv]]", "reads", '"own"'),
        ": conv1: reads is 'own'; the first layer reads the image, and it alone",
    ),
    "an fc layer that reads the image": (
        ("[[fc]]", "reads", '"image"'),
        ": fc6: only the first convolution reads the image",
    ),
    "an fc layer without units": (
        ("[[fc]]", "units", "0"),
        ": fc6: units is 0; it is 0 in the last layer, and there alone",
    ),
    "zeros around the image": (
        ("[[conv]]", "padding", "2"),
        ": conv1: padding is 2; what reads the image has none",
    ),
    "padding as wide as the kernel": (
        ("[[conv]]", "padding", "11"),
        ": conv1: padding is 11; it is less than the kernel",
    ),
    "maps that vanish": (
        ("", "pool_size", "14"),
        ": pooling after conv5 is 14 x 14 pixels, but reads maps of 4 x 4: they are too small",
    ),
    "a crop that does not fit": (
        ("", "crop", "230"),
        ": crop is 230; it is a multiple of shrink, 1, and then at most input_size, 227",
    ),
    "a crop that does not shrink evenly": (
        ("", "shrink", "3"),
        ": crop is 224; it is a multiple of shrink, 3, and then at most input_size, 227",
    ),
    "an input that strides do not fill": (
        ("", "input_size", "228"),
        ": input_size is 228; it is conv1's kernel and a multiple of its stride: 11 + n x 4",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_file_is_one_line_and_exit_code_2(what: str, tmp_path: Path) -> None:
    (section, key, literal), line = WRONG[what]
    assert refused(edited(section, key, literal), tmp_path) == line


@pytest.mark.parametrize(
    ("key", "literal", "line"),
    [
        ("reads", '"own"', ": fc8: reads is 'own'; the last layer reads both halves"),
        ("units", "9", ": fc8: units is 9; it is 0 in the last layer, and there alone"),
    ],
)
def test_the_last_layer_reads_both_halves_and_has_a_unit_for_each_class(
    key: str, literal: str, line: str, tmp_path: Path
) -> None:
    before, last = WHOLE[: (start := WHOLE.rindex("[[fc]]"))], WHOLE[start:]
    assert refused(before + re.sub(rf"^{key} = .*$", f"{key} = {literal}", last, flags=re.MULTILINE), tmp_path) == line


def test_an_input_smaller_than_the_first_kernel_is_refused(tmp_path: Path) -> None:
    text = edited("", "input_size", "7").replace("crop = 224", "crop = 7")
    assert refused(text, tmp_path) == ": conv1 is 11 x 11 pixels, but reads maps of 7 x 7: they are too small"


@pytest.mark.parametrize(("before", "after"), [("0", "3"), ("24", "0"), ("24", "60")])
def test_phases_begin_with_epoch_0_and_rise(before: str, after: str, tmp_path: Path) -> None:
    line = refused(re.sub(rf"(?m)^first_epoch = {before}$", f"first_epoch = {after}", WHOLE), tmp_path)
    assert re.fullmatch(r": phases begin at epochs \[.*\]; the first is 0, and they rise", line)


@pytest.mark.parametrize("tables", ["conv", "fc", "phase"])
def test_a_recipe_has_a_convolution_an_fc_layer_and_a_phase(tables: str, tmp_path: Path) -> None:
    without = re.sub(rf"(?m)^\[\[{tables}\]\]\n(?:.+\n)*", "", WHOLE)
    what = "phases begin at epochs " if tables == "phase" else "layers are "
    assert refused(f"{tables} = []\n{without}", tmp_path).startswith(f": {what}")


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    assert refused(WHOLE.replace("kernel = 11\n", ""), tmp_path) == ": conv[0].kernel is missing"
    assert refused(WHOLE.replace('name = "fc7"\n', ""), tmp_path) == ": fc[1].name is missing"
    assert refused('name = "empty"', tmp_path) == ": conv is missing"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\x00\xff\xfe" * 100, r" is no TOML: .*can't decode.*"),
        (b"\x7fELF\x00\x01", r" is no TOML: .+"),
        (b"momentum: 0.9\n", r" is no TOML: .* \(at line 1, column \d+\)"),
        (b"epochs = 1\nepochs = 2\n", r" is no TOML: .*overwrite.* \(at line 2, column \d+\)"),
        (b"x = " + 5000 * b"9", r" is no TOML: .*4300.*"),
        (b"x = " + 5000 * b"[", r" is no TOML: .+"),
        ("name".encode("utf-16"), ": it is in UTF-16; TOML is in UTF-8"),
        (b"#" * (1 << 20) + b"#", ": it is of more than 1 MiB; a recipe is of a few KiB"),
        (b'"a\\nb" = 1', r": 'a\\nb': there is no such field; there are name, .*"),
        (b"x = " + 300 * b"[" + 300 * b"]", ": x: there is no such field; .*"),
        (b"name = [" + 9000 * b"1," + b"]", r": name is \[1, 1, .{50}\.\.\.; it is a text|: conv is missing"),
        (b"", ": name is missing"),
        (b"recipe = 3", r": recipe: there is no such field; there are name, columns, .*"),
    ],
)
def test_a_file_of_something_else_is_told_so(content: bytes, line: str, tmp_path: Path) -> None:
    assert re.fullmatch(line, refused(content, tmp_path))


@pytest.mark.parametrize(("table", "what"), [("[[conv]]", "layers"), ("[[phase]]", "phases")])
def test_a_hundred_layers_and_phases_are_enough(table: str, what: str, tmp_path: Path) -> None:
    section = WHOLE[WHOLE.index(table) :].split("\n\n")[0]
    assert re.fullmatch(
        rf": there are 10\d {what}; 100 at most", refused(f"{WHOLE}\n" + f"{section}\n" * 100, tmp_path)
    )


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert read(path) == replace(SOURCE, plateau=Plateau())


def test_what_never_ends_or_has_no_writer_is_refused_and_a_shells_pipe_is_read(tmp_path: Path) -> None:
    (endless := tmp_path / "endless.toml").symlink_to("/dev/zero")
    assert refusal(endless).endswith("it is of more than 1 MiB; a recipe is of a few KiB")
    os.mkfifo(fifo := tmp_path / "fifo.toml")
    assert refusal(fifo).endswith("name is missing")
    reading, writing = os.pipe()
    os.write(writing, WHOLE.encode())
    os.close(writing)
    assert read(Path(f"/dev/fd/{reading}")) == replace(SOURCE, plateau=Plateau())
    os.close(reading)


def test_a_path_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "nowhere.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        assert refusal(path) == f"alexnet-trainer: error: --recipe {path} cannot be read: {reason}"


@pytest.mark.parametrize(("asked", "meant"), [("sorce", "; source is meant?"), ("vgg", "")])
def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(asked: str, meant: str) -> None:
    names = "there are source, paper, demo, cifar10, and files, FILE.toml"
    assert refusal(asked) == f"alexnet-trainer: error: --recipe {asked}: {names}{meant}"


def test_what_an_option_makes_impossible_is_told_too() -> None:
    for options, line in (
        (["--lr", "inf"], "phase of epoch 0: rate is inf; it is 0 or more, at most 1e\\+30"),
        (["--width", "nan"], "width is nan; it is more than 0, at most 16"),
        (["--ablate", "conv6", "--ablate", "conv6"], "layers are .*, conv6, conv6, .*"),
    ):
        result = CliRunner().invoke(main, ["--show-recipe", *options])
        assert result.exit_code == 2
        assert re.fullmatch(f"alexnet-trainer: error: {line}\n", result.stderr), result.stderr


def test_the_installed_command_refuses_a_bad_file_before_it_looks_for_anything_else(tmp_path: Path) -> None:
    (path := tmp_path / "bad.toml").write_text(WHOLE.replace("dropout = 0.5", "dropout = nan"))
    for options in (["--show-recipe"], ["--cpu"]):
        done = subprocess.run(
            [Path(sys.executable).parent / "alexnet-trainer", "--recipe", path, *options],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        line = f"alexnet-trainer: error: --recipe {path}: dropout is nan; it is 0 or more, less than 1\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert list(tmp_path.iterdir()) == [path]
