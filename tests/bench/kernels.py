"""Table of what a step runs: each kernel, how often, and for how long; on a CPU, torch's operations."""

from collections.abc import Callable

import torch

STEPS = 10
NAME_WIDTH = 90


def kernels(step: Callable[[], None], device: torch.device) -> str:
    """Name, count and us of each a step, longest first: means of ten steps, replayed if graphs of them exist."""
    on_gpu = device.type == "cuda"
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if on_gpu else kinds.CPU], acc_events=True) as profiler:
        for _ in range(STEPS):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
    rows = [
        (each.self_device_time_total if on_gpu else each.self_cpu_time_total, each.count, each.key)
        for each in profiler.key_averages()
    ]
    rows = sorted(((us / STEPS, count / STEPS, name) for us, count, name in rows if us), reverse=True)
    lines = ["  us a step  times  us each  kernel" if on_gpu else "  us a step  times  us each  operation"]
    lines += [f"  {us:9.1f} {count:6.1f} {us / count:8.1f}  {name[:NAME_WIDTH]}" for us, count, name in rows]
    return "\n".join(
        [*lines, f"  {sum(us for us, _, _ in rows):9.1f} {sum(count for _, count, _ in rows):6.1f}           all"]
    )
