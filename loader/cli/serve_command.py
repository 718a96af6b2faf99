"""`alexnet-loader`: the data-loader service, and the commands beside it."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from loader.cli import loader

    loader()
    raise SystemExit

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from common import ranges
from common.cli import log as logs
from common.cli.command_line import DEFAULT_ENDPOINT, HELP
from common.cli.console import say
from common.cli.outputs import STDOUT, is_fifo, refuse_unwritable, written
from common.decoder import name_of
from common.errors import AlexNetError, DatasetError, UsageError
from loader.cli.audit_command import audit
from loader.cli.crew import Crew
from loader.cli.keys_command import keys
from loader.service.exposure import refuse_open_bind
from loader.service.resources import half_of_memory, raise_file_limit, share_files
from loader.service.signals import caught
from loader.service.supervisor import Announce, supervise

if TYPE_CHECKING:
    from loader.dataset import Dataset

log = logging.getLogger(__name__)


@click.group(
    invoke_without_command=True, subcommand_metavar="[COMMAND ...]", context_settings={"show_default": True} | HELP
)
@click.version_option(package_name="alexnet")
@click.option("--workers", type=click.IntRange(1, 1024), default=os.cpu_count() or 1, help="Worker processes.")
@click.option(
    "--workers-file",
    type=click.Path(path_type=Path),
    help="File with the number of workers, in place of --workers; read again on SIGHUP.",
)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), help="Folder that alexnet-pack wrote.")
@click.option(
    "--bind",
    default=DEFAULT_ENDPOINT,
    help="tcp://HOST:PORT or ipc://PATH to listen on; port * takes any that is free, a path is for its owner alone.",
)
@click.option(
    "--stream-mib", type=click.IntRange(1), default=512, help="Memory that one stream of one client may take, in MiB."
)
@click.option(
    "--memory-mib",
    type=click.IntRange(1),
    show_default="half the machine's",
    help="Memory that all streams may take, in MiB.",
)
@click.option(
    "--worker-timeout", type=click.FloatRange(0.1), default=30.0, help="Seconds after which a worker counts as hung."
)
@click.option(
    "--keys",
    "key_folder",
    type=click.Path(path_type=Path),
    help="Folder of keys: encrypt, and serve only clients it names. The command keys makes one.",
)
@click.option("--insecure", is_flag=True, help="Let --bind be reached from other hosts, by anyone, unencrypted.")
@click.option("--pin", is_flag=True, help="Keep each worker on one core.")
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="Write the endpoint here once it is served; - is stdout."
)
@click.option(
    "--no-restart",
    is_flag=True,
    help="Serve in this process itself, and end if that dies: for systemd and the like, which start it again.",
)
@click.option("--verbose", is_flag=True, help="Log more.")
@click.pass_context
def main(
    context: click.Context,
    workers: int,
    workers_file: Path | None,
    data: Path,
    bind: str,
    stream_mib: int,
    memory_mib: int | None,
    worker_timeout: float,
    key_folder: Path | None,
    insecure: bool,
    pin: bool,
    ready_file: Path | None,
    no_restart: bool,
    verbose: bool,
) -> None:
    """Serve the packed photos of a data set, train and val, as batches for any number of clients.

    Worker processes read JPEGs, decode, crop, flip and add colour noise; clients get them over ZeroMQ. What a client
    gets depends on the data set, its seed, epoch and position alone. Ends on Ctrl-C or SIGTERM.

    The service is a process of its own: one that dies is started again at the same endpoint, within 0.1 to
    1 s. After 30 deaths within a minute this ends too, with exit code 1.

    With a COMMAND it serves nothing, and takes that command's options alone.
    """
    if context.invoked_subcommand is not None:
        refuse_options_of_serving(context)
        return
    logs.setup("alexnet-loader", verbose)
    with logs.errors_as_exit_codes("alexnet-loader"):
        refuse_open_bind(bind, key_folder, insecure)
        if ready_file is not None:
            refuse_unwritable(ready_file, "--ready-file")
        crew = Crew(workers, workers_file)
        memory_bytes = (memory_mib << 20) if memory_mib else half_of_memory()

        def service(bind: str, announce: Announce) -> None:
            limits = stream_mib << 20, memory_bytes, worker_timeout
            serve(crew, data, bind, key_folder, *limits, pin, ready_file, announce)

        if no_restart:
            service(bind, lambda endpoint: None)
        else:
            supervise("alexnet-loader", service, bind, hangup=workers_file is not None)


def refuse_options_of_serving(context: click.Context) -> None:
    """Before a command they would be silently without effect."""
    for option in context.command.params:
        if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} has no meaning for {context.invoked_subcommand}", context)


def serve(
    crew: Crew,
    data: Path,
    bind: str,
    key_folder: Path | None,
    stream_bytes: int,
    memory_bytes: int,
    worker_timeout_s: float,
    pinned: bool,
    ready_file: Path | None,
    announce: Announce,
) -> None:
    """Serve until SIGINT or SIGTERM; `announce` gets the endpoint once it is served."""
    from common.wire import sockets
    from common.wire.keys import ServerKeys
    from loader import jpeg
    from loader.service.access import Access
    from loader.service.listening import listen
    from loader.service.service import Service
    from loader.service.sessions import MemoryLimits
    from loader.workers.pool import WorkerPool

    files = share_files(raise_file_limit(), crew.wanted())
    decoder = jpeg.decoder()
    own_keys = ServerKeys.read(key_folder) if key_folder is not None else None
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(caught(hangup=crew.file is not None))
        datasets = {split: stack.enter_context(dataset) for split, dataset in open_datasets(data).items()}
        context = stack.enter_context(sockets.new_context())
        end, endpoint = listen(context, bind, own_keys)
        stack.callback(end.close)
        pool = WorkerPool(datasets, decoder, crew.wanted(), worker_timeout_s, pinned)
        stack.callback(pool.stop)
        pool.staff()
        access = stack.enter_context(contextlib.closing(Access(context, end, own_keys, files.connections)))
        service = Service(
            end.socket, access, datasets, decoder, pool, MemoryLimits(stream_bytes, memory_bytes, files.streams)
        )
        stack.callback(service.close)

        def on_ready() -> None:
            sizes = ", ".join(f"{split} {dataset.records:,} records" for split, dataset in datasets.items())
            secrecy = "encrypted" if own_keys is not None else "unencrypted"
            log.info("serving %s (%s) on %s, %s, with %d workers", data, sizes, endpoint, secrecy, len(pool.workers))
            log.info("JPEG codec: %s", name_of(decoder))
            announce(endpoint)
            if ready_file is not None and is_fifo(ready_file):  # which waits for its reader
                threading.Thread(target=announce_in, args=(ready_file, endpoint), daemon=True).start()
            elif ready_file is not None:
                announce_in(ready_file, endpoint)

        def on_hangup() -> None:
            try:
                service.resize(crew.wanted())
            except UsageError as error:
                log.warning("%s; %d workers go on", error, pool.count)
            else:
                log.info("%d workers from now on", pool.count)

        service.run(signals, on_ready, on_hangup)
        log.info("stopped")


def open_datasets(data: Path) -> "dict[str, Dataset]":
    """The splits that are there, at least one."""
    from loader.dataset import Dataset

    paths = {split: data / f"{split}.lmdb" for split in ("train", "val")}
    datasets = {split: Dataset(path) for split, path in paths.items() if path.exists()}
    if not datasets:
        raise UsageError(f"{data} holds neither train.lmdb nor val.lmdb; alexnet-pack makes them (--data)")
    for dataset in datasets.values():
        if fault := ranges.class_names_fault(dataset.classes):
            raise DatasetError(f"{dataset.path} cannot be served: {fault}; rename its folder and pack again")
    first, *others = datasets.values()
    for other in others:
        if (first.classes, first.stats.to_fields()) != (other.classes, other.stats.to_fields()):
            raise DatasetError(
                f"{other.path} was not packed with {first.path}: its classes or mean image are others; pack both anew"
            )
    return datasets


def announce_in(ready_file: Path, endpoint: str) -> None:
    """Write the endpoint to the file. It only tells: if that cannot be done by now, the log says so."""
    if ready_file == STDOUT:
        say(endpoint)
        return
    try:
        with written(ready_file) as file:
            file.write(endpoint + "\n")
    except AlexNetError as error:
        log.warning("%s (--ready-file)", error)


main.add_command(audit)
main.add_command(keys)
