"""`alexnet-loader`: the data-loader service, and the commands beside it."""

if __name__ == "__main__":  # by python -m; before the imports, which a Ctrl-C may meet
    from loader.cli import loader

    loader()
    raise SystemExit

import contextlib
import functools
import os
from pathlib import Path

import click
from click.core import ParameterSource

from common.cli import log as logs
from common.cli import options
from common.cli.command_line import DEFAULT_ENDPOINT
from common.cli.entry import need
from common.cli.outputs import refuse_unwritable
from common.errors import UsageError
from common.host_memory import memory_size
from loader.cli.audit_command import audit
from loader.cli.keys_command import keys
from loader.cli.ready_file import ReadyFile
from loader.cli.serving import MOST_WORKERS, ServeOptions, bytes_for_decoded, serve
from loader.monitoring.exporter import Exporter, host_and_port
from loader.service.exposure import binds_of, refuse_open_bind, refuse_open_metrics
from loader.service.supervisor import supervise

_PROGRAM = "alexnet-loader"
_serving, _access, _limits = options.section("Serving"), options.section("Access"), options.section("Limits")
_process = options.section("Process")
_MOST_GIB = 1 << 20
MOST_SERVICES = 64


@options.group(_PROGRAM, invoke_without_command=True, subcommand_metavar="[COMMAND ...]")
@_serving("--data", type=click.Path(path_type=Path), default=Path("data"), help="Folder that alexnet-pack wrote.")
@_serving(
    "--bind",
    default=DEFAULT_ENDPOINT,
    help="Endpoint: tcp://HOST:PORT, any free port if PORT is *, or ipc://PATH, for its owner alone.",
)
@_serving(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=os.cpu_count() or 1,
    help="Worker processes.",
)
@_serving(
    "--workers-file",
    type=click.Path(path_type=Path),
    help="File that holds the number of workers, in place of --workers; reread on SIGHUP.",
)
@_serving(
    "--services",
    type=click.IntRange(1, MOST_SERVICES),
    default=1,
    help="Services, each a port further on, that share workers, memory and cores: one encrypts on one core.",
)
@_access(
    "--keys",
    type=click.Path(path_type=Path),
    help="Folder of keys: encrypt, and serve only clients named there. alexnet-loader keys makes one.",
)
@_access(
    "--insecure",
    is_flag=True,
    help="Let a --bind to other hosts serve anyone, unencrypted; and a --metrics tell anyone.",
)
@_limits("--stream-mib", type=click.IntRange(1), default=512, help="Memory per stream of a client, in MiB.")
@_limits(
    "--memory-mib",
    type=click.IntRange(1),
    show_default="half the machine's",
    help="Memory of all streams, and of batches kept for their companions, in MiB.",
)
@_limits(
    "--decoded-gib",
    type=click.FloatRange(0, _MOST_GIB),
    show_default="a quarter of what is available",
    help="Memory for decoded images, which later epochs need not decode again, in GiB; 0 keeps none.",
)
@_limits(
    "--worker-timeout",
    type=click.FloatRange(0.1),
    default=30.0,
    help="Seconds a batch may take before its worker is killed.",
)
@_process("--pin", is_flag=True, help="Pin each worker to one core.")
@_process(
    "--metrics",
    metavar="HOST:PORT",
    help="Answer Prometheus at http://HOST:PORT/metrics, any free port if PORT is *.  [default: no figures]",
)
@_process(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Write the endpoints here once all are served, one a line, and that of --metrics last; removed when this"
    " command ends. - is stdout.",
)
@_process(
    "--no-restart",
    is_flag=True,
    help="Serve in this process, without restarts: for systemd and others that restart it themselves.",
)
@click.pass_context
def main(
    context: click.Context,
    data: Path,
    bind: str,
    workers: int,
    workers_file: Path | None,
    services: int,
    keys: Path | None,
    insecure: bool,
    stream_mib: int,
    memory_mib: int | None,
    decoded_gib: float | None,
    worker_timeout: float,
    pin: bool,
    metrics: str | None,
    ready_file: Path | None,
    no_restart: bool,
    log_level: str,
) -> None:
    """Serve a packed dataset, train and val, as batches to any number of clients, until Ctrl-C or SIGTERM.

    Worker processes read JPEGs, decode, crop, flip and add colour noise; clients receive them over ZeroMQ. What a
    client receives depends only on dataset, seed, epoch and position.

    A service is a process of its own, restarted at the same endpoint within 0.1 to 1 s if it dies. After 30 deaths
    within a minute this command ends too, with exit code 1.

    With a COMMAND nothing is served, and only that command's options apply.
    """
    if context.invoked_subcommand is not None:
        refuse_options_of_serving(context)
        return
    logs.setup(_PROGRAM, log_level)
    with logs.errors_as_exit_codes(_PROGRAM):
        refuse_open_bind(bind, keys, insecure, metrics)
        binds = binds_of(bind, services)
        if no_restart and services > 1:
            raise UsageError("--no-restart serves in this one process: it cannot be used with --services")
        if ready_file is not None:
            refuse_unwritable(ready_file, "--ready-file")
        settings = ServeOptions(
            data=data,
            workers=workers,
            workers_file=workers_file,
            keys=keys,
            stream_bytes=stream_mib << 20,
            memory_bytes=((memory_mib << 20) if memory_mib else memory_size() // 2) // services,
            decoded_bytes=bytes_for_decoded(decoded_gib, data) // services,
            worker_timeout_s=worker_timeout,
            pin=pin,
            ready_file=ReadyFile(ready_file, services) if ready_file is not None else None,
            exporter=_exporter(metrics, insecure, services) if metrics is not None else None,
            services=services,
        )
        settings.worker_count()  # refused before anything is started
        with settings.ready_file or contextlib.nullcontext():
            if no_restart:
                serve(settings, bind, lambda endpoint: None)
            else:
                each = [functools.partial(serve, settings.of(number)) for number in range(services)]
                supervise(_PROGRAM, each, binds, hangup=workers_file is not None)


def _exporter(metrics: str, insecure: bool, services: int) -> Exporter:
    need(["prometheus_client"], "metrics")
    host_and_port(metrics)
    refuse_open_metrics(metrics, insecure)
    return Exporter(metrics, services)


def refuse_options_of_serving(context: click.Context) -> None:
    for option in context.command.params:
        if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} cannot be used with {context.invoked_subcommand}", context)


main.add_command(audit)
main.add_command(keys)
