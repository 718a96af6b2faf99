"""A recipe is written as TOML, edited and read again, and shown with what the options change."""

import re
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.cli.train_command import main
from trainer.recipes.ablations import ABLATIONS, ablated
from trainer.recipes.layers import Conv, Linear, Op
from trainer.recipes.named import CIFAR10, DEMO, PAPER, RECIPES, SOURCE
from trainer.recipes.recipe import Phase, Plateau, Recipe
from trainer.recipes.recipe_file import from_dict, read, to_toml


def reread(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(to_toml(recipe))
    return read(path)


@pytest.mark.parametrize("ablation", [None, *ABLATIONS])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_what_is_written_reads_as_the_same_recipe(recipe: Recipe, ablation: str | None, tmp_path: Path) -> None:
    recipe = ablated(recipe, [ablation] if ablation else [])
    assert reread(recipe, tmp_path) == recipe


def test_every_field_is_written_with_its_meaning() -> None:
    """In the first table of its kind."""
    seen = set()
    for table in re.split(r"\n\n(?=\[)", to_toml(replace(SOURCE, plateau=Plateau()))):
        lines = [line for line in table.splitlines() if not line.startswith("#")]
        if (kind := lines[0].split()[0]) not in seen:
            assert [line for line in lines if not re.search(r"  # \S.{3}", line)] == []
        seen.add(kind)
    assert len(seen) == 5


rates = st.floats(0, 1e30)
biases = st.floats(-1e30, 1e30)
spreads: "st.SearchStrategy[float | Literal['he']]" = st.floats(0, 100) | st.just("he")
ops: "st.SearchStrategy[list[Op]]" = st.lists(st.sampled_from(("activation", "lrn", "spatial")), max_size=4)
pools: "st.SearchStrategy[tuple[Op, ...]]" = st.sampled_from(((), ("pool",)))
odd = st.integers(0, 4).map(lambda half: 2 * half + 1)


@st.composite
def drawn_recipes(draw: st.DrawFn) -> Recipe:
    """Nets of up to four convolutions and three fc layers, and any schedule."""
    first = Conv(name="image", channels=draw(st.integers(1, 99)), kernel=3, reads="image", weight_std=draw(spreads))
    conv = [first]
    for number in range(draw(st.integers(0, 3))):
        kernel = draw(st.integers(1, 5))
        conv.append(
            Conv(
                name=f"c{number}",
                channels=7,
                kernel=kernel,
                padding=draw(st.integers(0, kernel - 1)),
                reads=draw(st.sampled_from(("own", "both"))),
                then=(*draw(ops), *draw(pools)),
            )
        )
    fc = [Linear(name=f"f{n}", units=draw(st.integers(1, 99)), bias=draw(biases)) for n in range(draw(odd) % 3)]
    names = st.sampled_from([*(layer.name for layer in conv), *(layer.name for layer in fc)])
    starts = sorted(draw(st.sets(st.integers(1, 500), max_size=4)))
    phases = [
        Phase(start, draw(rates), draw(st.none() | rates), draw(st.dictionaries(names, rates)), draw(st.floats(0, 10)))
        for start in starts
    ]
    return Recipe(
        name=draw(st.from_regex(r"[a-zA-Z0-9_+-][a-zA-Z0-9_.+-]*", fullmatch=True)),
        columns=draw(st.sampled_from((1, 2))),
        width=draw(st.floats(0, 16, exclude_min=True)),
        activation=draw(st.sampled_from(("relu", "tanh"))),
        lrn_size=draw(odd),
        lrn_k=draw(st.floats(0, 1e30, exclude_min=True)),
        decay_biases=draw(st.booleans()),
        plateau=draw(st.none() | st.builds(Plateau, st.floats(1.5, 1000), st.integers(0, 9), st.integers(1, 9))),
        phase=(Phase(0, draw(st.floats(0, 1, exclude_min=True))), *phases),
        conv=tuple(conv),
        fc=(*fc, Linear(name="last")),
    )


@given(recipe=drawn_recipes())
@settings(max_examples=60)
def test_any_recipe_reads_as_it_was_written(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert reread(recipe, tmp_path_factory.getbasetemp()) == recipe
    assert from_dict(asdict(recipe)) == recipe


def test_comments_order_and_other_ways_of_writing_change_nothing(tmp_path: Path) -> None:
    head, *tables = re.split(r"\n\n(?=\[)", to_toml(SOURCE))
    head_lines = [f"{line}  # as it was" for line in reversed(head.splitlines()) if not line.startswith("#")]
    kinds = ("[[fc]]", "[[conv]]", "[[phase]]")  # of each the order says which is first
    moved = [table for kind in kinds for table in tables if table.startswith(kind)]
    assert len(moved) == len(tables)
    text = "\n# my own\n".join([*head_lines, *moved])
    text = text.replace("test_scale = 1.0", "test_scale = 1").replace("rate = 0.001", "rate = 1e-3")
    text = text.replace(
        "layer_rates = { conv1 = 1e-05 }\nsigma = 0.0", "sigma = 0\n[phase.layer_rates]\nconv1 = 0.00001"
    )
    assert "[phase.layer_rates]" in text
    assert text != to_toml(SOURCE)
    (path := tmp_path / "mine.toml").write_text(text)
    assert read(path) == SOURCE


def test_what_is_left_out_is_what_the_recipe_s_fields_begin_with(tmp_path: Path) -> None:
    (path := tmp_path / "short.toml").write_text(
        'name = "short"\nconv = [{ name = "c", channels = 8, kernel = 11, reads = "image", then = ["pool"] }]\n'
        'fc = [{ name = "f" }]\n'
    )
    conv = Conv(name="c", channels=8, kernel=11, reads="image", then=("pool",))
    assert read(path) == Recipe(name="short", conv=(conv,), fc=(Linear(name="f"),))


def test_a_recipe_of_before_pixels_were_a_field_reads_bytes() -> None:
    assert from_dict({name: value for name, value in asdict(SOURCE).items() if name != "pixels"}) == SOURCE
    assert SOURCE.pixels == "uint8"


def shown(*options: str) -> Recipe:
    """The command's output, read again."""
    result = CliRunner().invoke(main, ["--show-recipe", *options])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return from_dict(tomllib.loads(result.stdout))


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ("", SOURCE),
        ("--recipe paper", PAPER),
        ("--recipe cifar10", CIFAR10),
        ("--width 0.25", replace(SOURCE, width=0.25)),
        ("--batch-size 17", replace(SOURCE, batch_size=17)),
        ("--epochs 30", SOURCE.stretched(30)),
        ("--recipe demo --lr 0.02", replace(DEMO, phase=(Phase(0, 0.02), Phase(8, 0.006), Phase(10, 0.002)))),
        ("--ablate tanh", replace(SOURCE, name="source+tanh", activation="tanh")),
        ("--recipe paper --ablate no-conv4 --ablate conv6", ablated(PAPER, ["no-conv4", "conv6"])),
        (
            "--recipe demo --ablate no-dropout --width 0.5 --epochs 24",
            replace(DEMO.stretched(24), name="demo+no-dropout", dropout=0.0, width=0.5),
        ),
    ],
)
def test_what_is_shown_is_the_recipe_with_all_that_changes_it(options: str, recipe: Recipe) -> None:
    assert shown(*options.split()) == recipe


def test_a_learning_rate_takes_the_others_along() -> None:
    doubled, before = shown("--lr", "0.02").phase, SOURCE.phase
    assert [phase.rate for phase in doubled] == pytest.approx([2 * phase.rate for phase in before])
    assert {phase.bias_rate for phase in doubled} == {0.04}
    assert [phase.layer_rates for phase in doubled[3:5]] == [{"conv1": 2e-5}, {"conv1": 0.0}]


def test_what_was_shown_is_taken_and_the_options_change_it_as_they_do_a_named_one(tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_text(CliRunner().invoke(main, ["--show-recipe", "--recipe", "demo"]).stdout)
    assert shown("--recipe", str(path)) == DEMO
    assert shown("--recipe", str(path), "--width", "0.5", "--ablate", "tanh") == replace(
        ablated(DEMO, ["tanh"]), width=0.5
    )


def test_a_file_needs_no_ending_and_hides_no_recipe_that_comes_with_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text(to_toml(replace(DEMO, name="other")))
    Path("source").write_text(to_toml(DEMO))
    assert shown("--recipe", "mine").name == "other"
    assert shown("--recipe", "source") == SOURCE
