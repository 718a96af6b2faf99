"""An epoch's summary in words."""

import math
from collections.abc import Mapping

from common.cli.progress import duration, percent
from common.client.stream_sessions import Loaders
from common.spec import STORED_SIZE
from trainer.recipes.recipe import Recipe
from trainer.training.schedule import Outlook

GUESSING = 0.01  # a loss that is no further from that of guessing, as a share of it, tells of nothing learnt
CROWDED = 0.1  # share of the time: less contention for the cores is not mentioned
WORTH_IT = 0.02  # share of the time: shorter stalls are not mentioned
_NAMED = 0.1  # share of the stalls: smaller reasons are not named

_WORKERS = ("workers_busy", "read", "decode", "augment")
WAIT_NAMES = {
    "no_loader": "no loader",
    "workers_busy": "all workers at other batches",
    "free_slot": "no free slot",
    "read": "reading records",
    "decode": "decoding",
    "augment": "augmenting",
    "wire": "on the wire",
}


def waits_in_words(
    shares: Mapping[str, float], loaders: Loaders, decodes_per_s: float, images: int, contention: float = 0.0
) -> str:
    """The reasons for stalls, and a remedy; `shares` as in metrics.jsonl, `images` of the dataset.

    contention   for this host's cores, a share of the time
    """
    waited = sum(shares.values())
    if waited < WORTH_IT:
        what = "the cores were short, not the data" if contention >= CROWDED else "nothing to gain there"
        return f"waited {percent(waited)} of the time for data: {what}"
    largest_first = sorted((reason for reason in shares if shares[reason] >= _NAMED * waited), key=lambda r: -shares[r])
    named = ", ".join(f"{WAIT_NAMES[reason]} {percent(shares[reason])}" for reason in largest_first)
    advice = _advice(shares, loaders, decodes_per_s, images, contention)
    return f"waited {percent(waited)} of the time for data: {named}; {advice}"


def _advice(shares: Mapping[str, float], loaders: Loaders, decodes_per_s: float, images: int, contention: float) -> str:
    of_workers = sum(shares[reason] for reason in _WORKERS)
    causes = {"workers": of_workers} | {reason: shares[reason] for reason in ("wire", "free_slot", "no_loader")}
    cause = max(causes, key=causes.__getitem__)
    if cause == "workers":
        reading = shares["read"] > of_workers / 2
        if reading:
            return _faster_disk(decodes_per_s, images)
        if contention >= CROWDED and loaders.by_socket == 0:
            return "the loader is on this host, whose cores other programs hold: more workers would not help"
        return _more_workers(loaders)
    if cause == "wire":
        return _better_wire(loaders)
    if cause == "free_slot":
        return "this trainer held every slot it has: a larger alexnet-loader --stream-mib gives it more"
    if loaders.hosts > 1:
        return "loaders were gone, or did not answer: their logs say why"
    return "the loader was gone, or did not answer: its log says why, and a second --loader would stand in"


def _more_workers(loaders: Loaders) -> str:
    have = f"{_number(loaders.workers, 'worker')} on {_number(loaders.cores, 'core')}"
    if loaders.workers < loaders.cores:
        return f"more workers would help where cores are free ({have}; alexnet-loader --workers)"
    return f"every core has its worker ({have}): another host would help (--loader)"


def _faster_disk(decodes_per_s: float, images: int) -> str:
    decoded_gib = images * 3 * STORED_SIZE**2 / 2**30
    return (
        f"the loader's disk is the limit, it gives {decodes_per_s:,.0f} reads a second: a local or faster one would"
        f" help, or memory that holds the dataset (decoded it takes {decoded_gib:.1f} GiB: alexnet-loader"
        " --decoded-gib)"
    )


def _better_wire(loaders: Loaders) -> str:
    if loaders.by_socket == 0:
        return "loader and trainer waited for their turns on this host: fewer --workers or --threads leave them a core"
    return (
        "the connection is the limit: a faster one would help, or a loader on this host, whose pixels come through"
        " shared memory; more workers would not"
    )


def cores_in_words(contention: float) -> str:
    """A sentence on the contention, a share, or "" if it is small."""
    if contention < CROWDED:
        return ""
    return (
        f"other programs had this one's cores for {percent(contention)} of the time (a loader on this host is one of"
        " them): fewer would help, and OMP_WAIT_POLICY=passive costs less beside them"
    )


def beginning_in_words(recipe: Recipe, loss: float) -> str:
    """A sentence on a net that has learnt nothing yet, for its loss in training is that of guessing; else ""."""
    guessing = math.log(recipe.classes)
    if recipe.classes < 2 or abs(loss - guessing) > GUESSING * guessing:
        return ""
    helps = ["more steps"]
    if any(layer.weight_std != "he" for layer in recipe.layers):
        helps += [*(["full --width"] if recipe.width < 1 else []), _HE]
    return (
        f"nothing learnt yet: the loss is that of guessing, {guessing:.3f} for {recipe.classes:,} classes; what helps:"
        f" {', '.join(helps)}"
    )


_HE = 'weight_std = "he" in a recipe file (--show-recipe writes one)'


def course_in_words(
    epoch: int,
    lowest: tuple[float, int] | None,
    rate: float,
    outlook: Outlook,
    seconds_left: float | None,
) -> str:
    """The course of training after `epoch`; in words epochs count from 1.

    lowest    top-1 validation error so far, a share, and its epoch
    rate      of `epoch`; `outlook` is the next one's
    """
    parts = [_errors(epoch, lowest)] if lowest is not None else []
    if seconds_left is not None:
        parts += [_rate(rate, outlook), f"about {duration(seconds_left)} left"]
    return "; ".join(parts)


def _errors(epoch: int, lowest: tuple[float, int]) -> str:
    error, lowest_epoch = lowest
    if lowest_epoch == epoch:
        return "the lowest validation error so far"
    since = _number(epoch - lowest_epoch, "epoch")
    return f"no lower validation error for {since} (lowest {percent(error)}, epoch {lowest_epoch + 1})"


def _rate(before: float, outlook: Outlook) -> str:
    rate = f"learning rate {outlook.rate:g}"
    if outlook.rate != before:
        rate = f"learning rate now {outlook.rate:g}, until here {before:g}"
    if outlook.patience is not None:
        return f"{rate}, drops after {_number(outlook.patience, 'epoch')} without a lower error"
    return rate if outlook.from_epoch is None else f"{rate}, another from epoch {outlook.from_epoch + 1} on"


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"
