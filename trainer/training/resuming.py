"""The command that resumes a run."""

import shlex
from pathlib import Path

from trainer.training.train_options import TrainOptions

_OPTIONS = {  # those that no checkpoint holds; recipe, seeds, rate, precision and digests it does
    "gpus": "--gpus",
    "cpu": "--cpu",
    "net": "--net",
    "exchange": "--exchange",
    "cuda_graphs": "--cuda-graphs",
    "loaders": "--loader",
    "loaders_file": "--loaders",
    "loader_timeout_s": "--loader-timeout",
    "keys": "--keys",
    "checkpoint_minutes": "--checkpoint-minutes",
    "keep": "--keep",
    "log_steps": "--log-steps",
    "steps": "--steps",
    "tensorboard": "--tensorboard",
    "ranks": "--ranks",
    "nodes": "--nodes",
    "gpus_per_rank": "--gpus-per-rank",
    "reduce": "--reduce",
    "rank_timeout_s": "--rank-timeout",
    "restarts": "--restarts",
}


def resume_command(options: TrainOptions, run_folder: Path) -> str:
    """The command line, quoted for a shell, that continues the run in `run_folder` as `options` began it."""
    words = ["alexnet-trainer", "--resume", "--run", str(run_folder)]
    for field, option in _OPTIONS.items():
        value = getattr(options, field)
        if value == getattr(TrainOptions, field):
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [option, f"{each:g}" if isinstance(each, float) else str(each)]
    if options.nodes > 1:
        words += ["--rendezvous", "HOST:PORT"]  # to be filled in: that of before may be another job's by now
    return shlex.join(words)
