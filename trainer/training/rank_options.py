"""Checks that options about ranks go together."""

from common.errors import UsageError
from trainer.training.train_options import TrainOptions, recipe_of


def refuse_impossible(options: TrainOptions) -> None:
    """Raise UsageError now, before any rank is started."""
    _refuse_what_excludes_each_other(options)
    if options.nodes > 1:
        _refuse_what_nodes_lack(options)
    elif options.rendezvous is not None or options.run_id is not None:
        raise UsageError("--rendezvous and --run-id are for several nodes; give --nodes, or leave them out")
    if options.parts is not None and not is_power_of_two(options.parts):
        raise UsageError(f"--parts {options.parts}: it is a power of two, such as {_power_below(options.parts)}")
    if options.parts is not None or not (options.resume or options.resume_if_begun):
        check_ranks(options.all_ranks, options.parts or options.all_ranks)
    if not (options.resume or options.resume_if_begun or options.init):
        check_batch(recipe_of(options).recipe.batch_size, options.parts or options.all_ranks)


def check_ranks(ranks: int, parts: int) -> None:
    """Raise UsageError unless `ranks` can share `parts`."""
    if not is_power_of_two(parts):  # as many as ranks
        raise UsageError(f"{ranks} ranks: there can be {_listed(2 * ranks)}, all nodes together")
    if parts % ranks:
        raise UsageError(f"{ranks} ranks cannot share {parts} parts: there can be {_listed(parts)}, all nodes together")


def check_batch(batch_size: int, parts: int) -> None:
    """Raise UsageError if a part of a whole batch would be empty."""
    if batch_size < parts:
        raise UsageError(
            f"a batch of {batch_size} cannot be computed in {parts} parts; see --batch-size, --parts, --ranks"
        )


def is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _refuse_what_excludes_each_other(options: TrainOptions) -> None:
    if options.resume and options.resume_if_begun:
        raise UsageError("--resume and --resume-if-begun exclude each other; give one of them")
    if options.resume_if_begun and options.folder is None:
        raise UsageError("--resume-if-begun needs --run, the folder of the run")
    if options.all_ranks > 1 and options.gpus is not None:
        raise UsageError(
            "--gpus is for one rank; with several, CUDA_VISIBLE_DEVICES selects GPUs, and --gpus-per-rank divides them"
        )
    if options.cpu and options.gpus_per_rank is not None:
        raise UsageError("--cpu and --gpus-per-rank exclude each other; give one of them")


def _refuse_what_nodes_lack(options: TrainOptions) -> None:
    if options.folder is None:
        raise UsageError("--nodes needs --run, the same folder on all nodes")
    host, _, port = (options.rendezvous or "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        given = f" {options.rendezvous}" if options.rendezvous is not None else ""
        raise UsageError(
            f"--nodes needs --rendezvous HOST:PORT, where they meet, such as node-0:29400; it is{given or ' missing'}"
        )


def _power_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _listed(most: int) -> str:
    """`1, 2 or 4`: the powers of two up to `most`."""
    *others, last = [str(1 << exponent) for exponent in range(most.bit_length())]
    return f"{', '.join(others)} or {last}" if others else last
