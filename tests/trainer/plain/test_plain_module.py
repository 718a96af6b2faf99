"""AlexNet2012 answers as the trainer's own networks do, and behaves as a torch module should."""

from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.lively_nets import (
    CPU,
    NAMES,
    VARIANTS,
    images,
    save_lively,
    trainers_member,
    trainers_probabilities,
    variant,
)
from trainer.evaluation.ensemble import views
from trainer.network.initial import initial_tensors
from trainer.network.model import reference_shapes
from trainer.plain import ABLATIONS, PUBLISHED, AlexNet2012, Architecture, architecture
from trainer.plain.operations import PaperDropout
from trainer.plain.run_file import read_run, to_bytes
from trainer.recipes.ablations import ABLATIONS as CHANGES
from trainer.recipes.ablations import ablated
from trainer.recipes.named import RECIPES


def test_the_recipes_and_ablations_are_the_trainer_s() -> None:
    assert list(PUBLISHED) == list(RECIPES)
    assert list(ABLATIONS) == list(CHANGES)
    for name, recipe in RECIPES.items():
        assert architecture(name) == Architecture.of(asdict(recipe))
        for pair in permutations(CHANGES, 2):
            assert architecture(name, pair) == Architecture.of(asdict(ablated(recipe, pair))), pair


@pytest.mark.parametrize(("recipe", "change"), VARIANTS, ids=str)
def test_every_network_answers_as_in_the_trainer_and_so_does_its_export(
    recipe: str, change: str, tmp_path: Path
) -> None:
    """In float64 if halves exchange float16, which turns the last bit of float32 into one of float16 at times."""
    path = save_lively(tmp_path, variant(recipe, change))
    (tmp_path / "net.safetensors").write_bytes(to_bytes(read_run(path), {}))
    dtype = torch.float64 if change == "half-exchange" else torch.float32
    expected = trainers_probabilities(path, images(), (1,) if change else (1, 10), dtype)
    net, export = (AlexNet2012.from_run(file).to(dtype) for file in (path, tmp_path / "net.safetensors"))
    with torch.no_grad():
        assert torch.equal(export(images()), net(images()))
        for views, probabilities in expected.items():
            torch.testing.assert_close(net.probabilities(images(), views).float(), probabilities, rtol=0, atol=1e-5)


def test_layers_of_groups_answer_as_in_the_trainer(tmp_path: Path) -> None:
    recipe = variant("paper", "").with_layer("fc6", reads="own")
    path = save_lively(tmp_path, recipe)
    with torch.no_grad():
        found = AlexNet2012.from_run(path).probabilities(images())
    torch.testing.assert_close(found, trainers_probabilities(path, images())[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_features_are_the_trainer_s(layer: str, tmp_path: Path) -> None:
    path = save_lively(tmp_path, variant("source", ""))
    member = trainers_member(path)
    pixels = member.pixels({CPU: images().permute(0, 2, 3, 1).contiguous()}, views(member.recipe.crop)[0])
    expected = torch.cat(member.net.features(pixels, layer), dim=1)
    with torch.no_grad():
        found = AlexNet2012.from_run(path).features(images(), layer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_parameters_have_the_trainer_s_names_shapes_and_first_values() -> None:
    recipe = replace(RECIPES["source"], width=0.1, classes=20)
    torch.manual_seed(0)
    net = AlexNet2012("source", width=0.1, classes=20)
    state = net.state_dict()
    assert {name: tuple(each.shape) for name, each in state.items() if name != "mean"} == reference_shapes(recipe)
    for name, expected in initial_tensors(recipe, seed=0).items():
        assert float(state[name].std(correction=0)) == pytest.approx(float(expected.std(correction=0)), rel=0.2), name
        assert float(state[name].mean()) == pytest.approx(float(expected.mean()), abs=0.01), name
    assert net.class_names == tuple(map(str, range(20)))


def test_a_state_dict_brings_all_that_decides_the_answers(tmp_path: Path) -> None:
    net = AlexNet2012.from_run(save_lively(tmp_path, variant("cifar10", "")))
    other = AlexNet2012("cifar10", width=0.03, classes=len(NAMES)).eval()
    assert not torch.equal(other(images()), net(images()))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(images()), net(images()))


def test_dropout_is_the_paper_s_in_training_and_in_test() -> None:
    dropout, x = PaperDropout(0.25), torch.ones(10_000)
    assert torch.equal(dropout.eval()(x), 0.75 * x)
    kept = dropout.train()(x)
    assert set(kept.tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.75, abs=0.02)


def test_a_run_s_network_does_not_mask_until_it_trains_and_then_every_parameter_learns(tmp_path: Path) -> None:
    net = AlexNet2012.from_run(save_lively(tmp_path, variant("source", "")))
    assert not net.training
    assert torch.equal(net(images()), net(images()))
    net.train()
    assert not torch.equal(net(images()), net(images()))
    torch.nn.functional.cross_entropy(net(images()), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_answer_almost_alike(dtype: torch.dtype, tmp_path: Path) -> None:
    """At pixels of -128 to 127, whose squares float16 cannot hold."""
    net = AlexNet2012.from_run(save_lively(tmp_path, variant("paper", "")))
    with torch.no_grad():
        expected = net.probabilities(images())
        found = net.to(dtype).probabilities(images())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (torch.zeros(1, 3, 256, 256), "torch.float32"),
        (torch.zeros(1, 256, 256, 3, dtype=torch.uint8), "n x 3 x 256 x 256"),
        (torch.zeros(3, 256, 256, dtype=torch.uint8), "n x 3 x 256 x 256"),
        ([[0]], "list"),
    ],
)
def test_other_images_are_refused(given: torch.Tensor, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        AlexNet2012("cifar10", width=0.03)(given)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"recipe": "vgg"}, "no recipe 'vgg'"),
        ({"recipe": {"name": "mine", "dropuot": 1}}, "another version"),
        ({"ablate": "relu"}, "no ablation 'relu'"),
        ({"ablate": ["conv6", "conv6"]}, "called 'conv6'"),
        ({"ablate": ["no-conv4", "no-conv4"]}, "no conv4 to leave out"),
        ({"classes": 0}, "classes is 0"),
        ({"width": float("nan")}, "width is nan"),
    ],
)
def test_impossible_networks_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        AlexNet2012(**options)


def test_views_and_layers_that_there_are_not_are_refused() -> None:
    net = AlexNet2012("cifar10", width=0.03)
    with pytest.raises(ValueError, match="it is 1 or 10"):
        net.probabilities(images(), views=5)
    with pytest.raises(ValueError, match="there are fc6, fc7"):
        net.features(images(), "fc8")
