"""Two ranks on a Ray cluster. Ray calls a function in a thread, but signals need a main one: hence the command."""

import os
import socket
import subprocess

import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

OPTIONS = ["--cpu", "--recipe=demo", "--run=/tmp/on-ray", "--resume-if-begun", "--loader=tcp://127.0.0.1:5555"]


def rank() -> None:
    port: list[int | None] = [None]
    if dist.get_rank() == 0:  # Ray listens at MASTER_PORT itself
        with socket.create_server(("", 0)) as free:
            port = [free.getsockname()[1]]
    dist.broadcast_object_list(port)
    subprocess.run(["alexnet-trainer", *OPTIONS], env={**os.environ, "MASTER_PORT": str(port[0])}, check=True)


if __name__ == "__main__":
    again = RunConfig(failure_config=FailureConfig(max_failures=3))
    TorchTrainer(rank, scaling_config=ScalingConfig(num_workers=2), run_config=again).fit()
