"""--init: copy every tensor whose name and shape match; initialise the rest."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from common.errors import CheckpointError
from trainer.checkpoints.changes import by
from trainer.checkpoints.resume import Found
from trainer.network.net import Net

log = logging.getLogger(__name__)

TAKEN = "taken"
OTHERS = "initialised: the classes have other names"


def take_weights(origin: Found, net: Net, classes: Sequence[str]) -> dict[str, Any]:
    """Copy the weights that fit into `net`; returns the metrics' `init`.

    classes   of the new dataset; if others than the checkpoint's, its last layer is not taken

    Raises CheckpointError if nothing fits.
    """
    initial, stored = net.gather(), origin.checkpoint.weights
    fates = {name: _fate(tensor, stored.get(name)) for name, tensor in initial.items()}
    if tuple(classes) != origin.checkpoint.state.class_names:
        last = list(initial)[-1].partition(".")[0]
        fates |= {name: OTHERS for name in fates if name.partition(".")[0] == last and fates[name] == TAKEN}
    taken = {name: stored[name] for name, fate in fates.items() if fate == TAKEN}
    if not taken:
        raise CheckpointError(f"{origin.path}: none of its weights has the name and the shape of one of this network's")
    net.scatter(initial | taken)
    log.info("weights of %s, step %d:", origin.path, origin.checkpoint.state.step)
    for name, fate in fates.items():
        log.info("  %s %s: %s", name, by(tuple(initial[name].shape)), fate)
    for name in stored.keys() - initial.keys():
        log.info("  %s %s: left, this network has none", name, by(tuple(stored[name].shape)))
    state = origin.checkpoint.state
    return {"checkpoint": str(origin.path), "step": state.step, "dataset": state.dataset, "weights": fates}


def _fate(initial: Tensor, stored: Tensor | None) -> str:
    if stored is None:
        return "initialised: the checkpoint has none"
    now, then = tuple(initial.shape), tuple(stored.shape)
    if now == then:
        return TAKEN
    if now[1:] == then[1:]:
        return f"initialised: {now[0]} outputs instead of {then[0]}"
    return f"initialised: {by(now)} instead of {by(then)}"
