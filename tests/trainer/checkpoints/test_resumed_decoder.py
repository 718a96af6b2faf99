"""A run resumes with any decoder that makes the same pixels, whatever its name and however old the checkpoint."""

from dataclasses import replace

import pytest

from common.decoder import named
from common.errors import CheckpointError
from common.spec import StreamSpec
from tests.support.memory_loader import MemoryLoader
from tests.support.tiny_run import Train
from trainer.checkpoints import checkpoint
from trainer.checkpoints.resume import check_same_data


def test_a_run_is_not_resumed_with_another_decoder(train: Train, loader: MemoryLoader) -> None:
    train(steps=1)
    loader.decoder = named("another", "1" * 32)
    with pytest.raises(
        CheckpointError, match="as drawn pixels 0+ decodes them, the loader has another pixels 1+, which"
    ):
        train(resume=True)


def test_a_run_goes_on_across_an_upgrade_of_the_decoder_that_changes_no_pixel(
    train: Train, loader: MemoryLoader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train(steps=1)
    loader.decoder = named("newer", "0" * 32)
    saved = checkpoint.load(train(resume=True, steps=2).checkpoint)
    assert saved.state.decoder == loader.decoder
    assert "of another stream" not in caplog.text


def test_an_old_checkpoint_that_names_no_decoder_is_gone_on_with_any(train: Train) -> None:
    state = checkpoint.load(train(steps=1).checkpoint).state
    info = MemoryLoader().stream(StreamSpec(), 1).info
    check_same_data(replace(state, decoder=""), replace(info, decoder="another"))


def test_a_checkpoint_of_before_identities_had_all_digits_is_gone_on_with(
    train: Train, loader: MemoryLoader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    loader.decoder = "drawn pixels 00000000"
    train(steps=1)
    loader.decoder = named("drawn", "0" * 32)
    train(resume=True, steps=2)
    assert "of another stream" not in caplog.text
    loader.decoder = "drawn pixels 00000001"
    with pytest.raises(CheckpointError, match="which makes other pixels"):
        train(resume=True)
