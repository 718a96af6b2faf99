"""Start of a command as several ranks, by torch's elastic agent: `alexnet-trainer --ranks`."""

import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from common.errors import AlexNetError, UsageError
from common.own_folder import own_folder
from trainer.ranks.agent import Ended, Interrupted, RankAgent
from trainer.ranks.ending import USAGE, Ending, first_ending
from trainer.ranks.place import LAUNCHER

log = logging.getLogger(__name__)

_JOIN_S = 900  # for all nodes to come
_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Launch:
    """The ranks to start on this host; each other node starts as many.

    rendezvous   HOST:PORT, the same on all nodes; None for one
    run_id       of this start, the same on all nodes
    """

    ranks: int
    nodes: int
    rendezvous: str | None
    run_id: str
    restarts: int


def launch(command: Sequence[str], asked: Launch) -> int:
    """Run `command` as ranks, and restart all if one is lost; return the exit code, 128 + n after signal n.

    Raises UsageError, or another AlexNetError, with the words of the rank that failed first.
    """
    _prepare_environment(asked.ranks)
    try:
        with own_folder("alexnet-ranks-") as folder, RankAgent(_spec(command, asked), str(folder)) as agent:
            return _run(agent, asked)
    except Interrupted as interrupted:  # before there are ranks, or by a second Ctrl-C, at whatever line
        return 128 + interrupted.number


def _run(agent: RankAgent, asked: Launch) -> int:
    if asked.nodes > 1:
        log.info("waiting for %d nodes at %s", asked.nodes, asked.rendezvous)
    try:
        result = agent.run()
    except Ended as ended:
        return _code_of(ended.ending, agent)
    except SignalException as ended_by:
        return 128 + ended_by.sigval
    except RendezvousError as error:
        raise AlexNetError(f"the nodes do not meet at {asked.rendezvous}: {error}") from None
    finally:
        with contextlib.suppress(RendezvousError):
            agent.get_worker_group().spec.rdzv_handler.shutdown()
    if result.is_failed():
        ending = first_ending(result.failures)
        raise AlexNetError(f"{ending}; {_used_up(asked.restarts)}")
    return 0


def _prepare_environment(ranks: int) -> None:
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # from a shared one restarted ranks read dead addresses
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others are the agent's
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    if log.getEffectiveLevel() > logging.DEBUG:
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # its warnings are no news beside ours


def _spec(command: Sequence[str], asked: Launch) -> WorkerSpec:
    entry, *arguments = command
    address = _own_address(asked.rendezvous)
    meeting = RendezvousParameters(
        backend="c10d",
        endpoint=asked.rendezvous or f"{_LOCAL}:0",
        run_id=asked.run_id,
        min_nodes=asked.nodes,
        max_nodes=asked.nodes,
        local_addr=address,
        timeout=_JOIN_S,
    )
    try:
        handler = get_rendezvous_handler(meeting)
    except RendezvousError as error:
        raise AlexNetError(
            f"{asked.rendezvous or _LOCAL} cannot be reached: {error.__cause__ or error} (--rendezvous)"
        ) from None
    return WorkerSpec(
        role="rank",
        local_world_size=asked.ranks,
        rdzv_handler=handler,
        entrypoint=entry,
        args=tuple(arguments),
        max_restarts=asked.restarts,
        local_addr=address,
    )


def _own_address(rendezvous: str | None) -> str | None:
    """The address by which this host reaches the rendezvous; None if unknown."""
    if rendezvous is None:
        return _LOCAL
    host, _, port = rendezvous.rpartition(":")
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))  # sends nothing
        address: str = probe.getsockname()[0]
        if not address.startswith("127.") or host in ("localhost", _LOCAL):
            return address
    return None


def _code_of(ending: Ending, agent: RankAgent) -> int:
    """The exit code after ranks stopped. Raises the error of a rank that failed."""
    if ending.exit_code > 128 and not ending.words:
        return ending.exit_code
    if agent.received and (
        ending.exit_code < 0 or ending.is_consequence
    ):  # signalled before it could save, or lost one
        if ending.words:
            log.warning("%s", ending)
        return 128 + agent.received[0]
    raise (UsageError if ending.exit_code == USAGE else AlexNetError)(str(ending))


def _used_up(restarts: int) -> str:
    return (
        "there are no restarts (--restarts)" if restarts == 0 else f"all restarts are used up (--restarts {restarts})"
    )
