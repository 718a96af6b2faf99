"""The rates of an epoch, and the recipe's numbers they come from."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.recipes.named import DEMO, PAPER, RECIPES, SOURCE
from trainer.recipes.recipe import Plateau, Recipe
from trainer.training.schedule import Outlook, Schedule

LAYERS = SOURCE.layer_names


@pytest.mark.parametrize(
    ("epoch", "rate", "conv1_rate", "sigma"),
    [
        (0, 0.01, 0.01, 0.1),
        (23, 0.01, 0.01, 0.1),
        (24, 0.001, 0.001, 0.1),
        (49, 0.001, 0.001, 0.1),
        (50, 0.0001, 0.0001, 0.1),
        (65, 0.0001, 0.0001, 0.1),
        (66, 0.0001, 1e-5, 0.0),
        (71, 0.0001, 0.0, 0.0),
        (78, 1e-5, 0.0, 0.0),
        (90, 1e-5, 0.0, 0.0),
    ],
)
def test_the_source_s_rates_change_after_24_50_66_71_and_78_whole_epochs(
    epoch: int, rate: float, conv1_rate: float, sigma: float
) -> None:
    schedule = Schedule(SOURCE)
    rates = schedule.rates(epoch)
    assert list(rates) == [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    assert rates["conv1.weight"] == conv1_rate
    assert {rates[f"{layer}.weight"] for layer in LAYERS[1:]} == {rate}
    assert {rates[f"{layer}.bias"] for layer in LAYERS[1:]} == {0.02}
    assert rates["conv1.bias"] == (0.02 if conv1_rate else 0.0)
    assert schedule.sigma(epoch) == sigma


def test_the_paper_s_rates_fall_tenfold_three_times_when_the_error_stops_falling() -> None:
    schedule = Schedule(replace(PAPER, plateau=Plateau(patience=2)))
    seen = []
    for error in (0.9, 0.8, 0.8, 0.81, 0.79, 0.79, 0.79, *[0.9] * 8):
        seen.append(schedule.rates(0)["fc6.bias"])
        schedule.observe(error)
    assert seen == pytest.approx([0.01] * 4 + [0.001] * 3 + [1e-4] * 2 + [1e-5] * 6)
    assert schedule.rates(0) == dict.fromkeys(schedule.rates(0), pytest.approx(1e-5))


def test_an_error_has_fallen_only_if_by_more_than_the_threshold() -> None:
    schedule = Schedule(replace(PAPER, plateau=Plateau(patience=2, threshold=0.25)))
    seen = []
    for error in (1.0, 0.875, 0.74, 0.5, 0.6, 0.4, 0.4):  # two are lower by more: 0.74 than 1.0, and 0.4 than 0.74
        seen.append(schedule.rates(0)["fc6.weight"])
        schedule.observe(error)
    assert seen == pytest.approx([0.01] * 5 + [0.001] * 2)
    assert schedule.outlook(0).patience == 1
    exactly = Schedule(replace(PAPER, plateau=Plateau(patience=1, threshold=0.25)))
    exactly.observe(0.75)
    exactly.observe(0.5)
    assert exactly.rates(0)["fc6.weight"] == pytest.approx(0.001)


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    errors = [0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    whole = Schedule(PAPER)
    for count, error in enumerate(errors):
        resumed = Schedule(PAPER)
        resumed.state = whole.state
        for each in errors[count:]:
            resumed.observe(each)
        whole.observe(error)
    assert resumed.state == whole.state
    assert resumed.rates(0) == whole.rates(0)
    assert resumed.rates(0)["fc6.weight"] < 0.01


def test_the_source_takes_no_notice_of_the_error() -> None:
    schedule = Schedule(SOURCE)
    for _ in range(50):
        schedule.observe(1.0)
    assert schedule.rates(0) == Schedule(SOURCE).rates(0)


def test_a_stretched_source_drops_at_proportionate_epochs() -> None:
    short = SOURCE.stretched(10)
    assert [phase.first_epoch for phase in short.phase] == [0, 3, 5, 7, 8, 9]
    assert [phase.rate for phase in short.phase] == [phase.rate for phase in SOURCE.phase]
    assert SOURCE.stretched(SOURCE.epochs) == SOURCE


def test_a_stretched_paper_waits_proportionately_long_for_the_error_to_fall() -> None:
    patience = [stretched.plateau.patience for epochs in (9, 45, 180) if (stretched := PAPER.stretched(epochs)).plateau]
    assert patience == [1, 2, 10]


@given(epochs=st.integers(1, 500), recipe=st.sampled_from(tuple(RECIPES.values())))
def test_any_stretch_begins_as_the_recipe_does_and_keeps_the_order_of_phases(epochs: int, recipe: Recipe) -> None:
    stretched = recipe.stretched(epochs)
    starts = [phase.first_epoch for phase in stretched.phase]
    assert stretched.epochs == epochs
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] < epochs
    assert Schedule(stretched).rates(0) == Schedule(recipe).rates(0)
    if epochs >= recipe.epochs:
        assert len(starts) == len(recipe.phase)


def test_the_recipes_hold_the_published_numbers() -> None:
    assert (PAPER.crop, SOURCE.crop) == (227, 224)
    assert (PAPER.train_scale, PAPER.test_scale) == (1, 1)
    assert (SOURCE.train_scale, SOURCE.test_scale) == (1 / 1.1, 1)
    for recipe in (PAPER, SOURCE):
        assert (recipe.batch_size, recipe.momentum, recipe.weight_decay, recipe.dropout) == (128, 0.9, 0.0005, 0.5)
        assert [recipe.outputs(layer) for layer in recipe.layers] == [48, 128, 192, 192, 128, 2048, 2048, 1000]
    assert (PAPER.decay_biases, SOURCE.decay_biases) == (True, False)
    assert DEMO.width < 1


def test_the_outlook_names_the_epoch_of_another_rate_and_passes_over_phases_that_keep_it() -> None:
    schedule = Schedule(SOURCE)
    assert schedule.outlook(0) == Outlook(0.01, from_epoch=24, patience=None)
    assert schedule.outlook(23) == Outlook(0.01, 24, None)
    assert schedule.outlook(24) == Outlook(0.001, 50, None)
    assert schedule.outlook(60) == Outlook(0.0001, 78, None)
    assert schedule.outlook(90) == Outlook(1e-5, None, None)


def test_the_outlook_counts_the_epochs_to_a_drop_until_there_is_none_left() -> None:
    schedule = Schedule(PAPER)
    schedule.observe(0.5)
    assert schedule.outlook(1) == Outlook(0.01, None, patience=5)
    for left in (4, 3, 2, 1):
        schedule.observe(0.5)
        assert schedule.outlook(1) == Outlook(0.01, None, patience=left)
    schedule.observe(0.5)
    assert schedule.outlook(1) == Outlook(0.001, None, patience=5)
    for _ in range(10):
        schedule.observe(0.5)
    assert schedule.outlook(1).patience is None
