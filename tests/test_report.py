"""What a person reads of a run while it goes on."""

from trainer.report import Now

NOW = Now(
    epoch=2,
    epochs=12,
    step_of_epoch=5,
    steps_per_epoch=63,
    images_per_s=1234.5,
    loss=1.5,
    error=0.5,
    wait_share=0.25,
    eta_s=200.0,
)


def test_the_line_says_where_training_stands() -> None:
    line = NOW.line()
    assert line == (
        "epoch 3/12  step 5/63  1,234 images/s  loss 1.500  error 50.0 %  waiting for data 25.0 %  ETA 3m20s"
    )
