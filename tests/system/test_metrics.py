"""--metrics: figures scraped from a service at work, attacked, and restarted."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli import entry
from common.client.client import LoaderClient
from common.errors import UsageError
from common.wire import messages
from loader.cli.serve_command import main
from loader.monitoring.figures import FAULTS, FIGURES, PREFIX
from loader.monitoring.responder import LONGEST_REQUEST, MOST_OPEN
from loader.service.exposure import refuse_open_bind, refuse_open_metrics
from tests.support.paths import ROOT
from tests.support.processes import ANY_PORT, LoaderProcess, alive, children, wait_for
from tests.support.reader import SPEC, fingerprint
from tests.support.scrapes import ask, connect, scrape

METRICS = "--metrics", "127.0.0.1:*"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def watched(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderProcess]:
    with LoaderProcess(packed, tmp_path_factory.mktemp("watched"), 2, ANY_PORT, *METRICS) as service:
        yield service


def responder_of(service: LoaderProcess) -> int:
    """The process that answers scrapes."""
    return wait_for(
        "the process that answers scrapes",
        lambda: next((pid for pid in children(service.pid) if b"responder" in command_line(pid)), None),
    )


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_counts_are_those_of_the_clients_at_an_epochs_end_however_often_they_were_scraped(
    watched: LoaderProcess,
) -> None:
    (url,) = watched.figures_at
    stop, scraped = threading.Event(), list[float]()

    def keep_scraping() -> None:
        while not stop.is_set():
            scraped.append(scrape(url).total("images_total"))

    with ExitStack() as stack:
        by_slab = stack.enter_context(LoaderClient(watched.endpoint, transport="slab"))
        by_wire = stack.enter_context(LoaderClient(watched.endpoint, transport="frames"))
        thread = threading.Thread(target=keep_scraping)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        passes = [client.stream(SPEC, 16).batches(range(2)) for client in (by_slab, by_wire)]
        images, pixel_bytes, decoded = 0, [0, 0], 0
        for batches in zip(*passes, strict=True):
            for way, batch in enumerate(batches):
                images += len(batch)
                pixel_bytes[way] += batch.images.nbytes
                decoded += batch.timeline.decoded if batch.timeline is not None else 0
        now = scrape(url)
        assert now.total("images_total") == now.total("images_total", split="train") == images == 600
        assert now.total("images_total", source="decoded") == decoded > 0
        assert now.total("images_total", source="kept") > 0
        assert now.total("images_total", source="shared") > 0
        assert now.total("batches_total") == 4 * 10
        assert now.total("pixel_bytes_total", transport="slab") == pixel_bytes[0]
        assert now.total("pixel_bytes_total", transport="tcp", encrypted="false") == pixel_bytes[1]
        assert now.total("worker_seconds_total", stage="decode") > 0
        assert now.total("worker_crashes_total") == now.total("faults_total") == now.total("replaced_images_total") == 0

        def state_is_there() -> bool:
            look = scrape(url)
            kept = look.total("kept_images")
            return (
                look.total("streams", split="train") == look.total("clients") == look.total("connections") == 2
                and (look.total("workers"), look.total("workers_wanted")) == (2, 2)
                and look.total("dataset_records") == 190
                and 0 < kept <= decoded
                and look.total("memory_bytes", **{"for": "kept"}) >= kept * 3 * 256**2
                and look.total("slots") > look.total("credit_batches") > 0
                and look.total("memory_bytes", **{"for": "companions"}) > 0
                and 0 < look.total("start_time_seconds") <= look.total("last_turn_time_seconds")
            )

        wait_for("the state of all parts", state_is_there)
    assert scraped == sorted(scraped)
    wait_for("the clients to be gone", lambda: scrape(url).total("slots_in_use") == scrape(url).total("streams") == 0)


def test_every_figure_has_a_name_a_type_and_a_unit_as_prometheus_wants_them(watched: LoaderProcess) -> None:
    types = scrape(watched.figures_at[0]).types
    assert types == {PREFIX + figure.name.removesuffix("_total"): figure.kind for figure in FIGURES}
    for figure in FIGURES:
        assert (figure.kind == "counter") == figure.name.endswith("_total")
        assert figure.help.endswith(".")
    open_metrics = GET.replace(b"\r\n\r\n", b"\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n")
    assert ask(watched.figures_at[0], open_metrics).endswith(b"# EOF\n")


def test_each_fault_that_the_service_sends_is_counted() -> None:
    codes = {messages.UNKNOWN_STREAM, messages.NO_SUCH_SPLIT, messages.REFUSED, messages.BAD_RECORD}
    codes |= {messages.BAD_DATASET, messages.VERSION_MISMATCH, messages.NO_ACCESS}
    assert {code for (code,) in FAULTS.series} == codes


def test_an_attack_on_the_endpoint_stalls_neither_the_figures_nor_the_service(watched: LoaderProcess) -> None:
    (url,) = watched.figures_at
    responder = responder_of(watched)
    assert os.getpriority(os.PRIO_PROCESS, responder) == 19
    with LoaderClient(watched.endpoint) as client, ExitStack() as stack:
        batches = client.stream(SPEC, 16).batches(range(3))
        first = fingerprint([next(batches)])
        slow = [stack.enter_context(connect(url)) for _ in range(3 * MOST_OPEN)]
        for connection in slow[-MOST_OPEN:]:
            connection.sendall(GET[:-2])  # and never its end
        assert slow[0].recv(1) == b""  # cut, to make room
        assert ask(url, b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * LONGEST_REQUEST)[:12] in (b"HTTP/1.1 431", b"")
        assert ask(url, b"\0\xff" * 10 + b"\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert ask(url, GET.replace(b"GET", b"POST")).startswith(b"HTTP/1.1 405")
        assert ask(url, GET.replace(b"/metrics", b"/")).startswith(b"HTTP/1.1 404")
        assert ask(url, GET.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")
        assert ask(url, GET).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(os.listdir(f"/proc/{responder}/fd")) < MOST_OPEN + 20
        assert len(first + fingerprint(batches)) == 30
    assert responder_of(watched) == responder
    assert scrape(url).total("connections") >= 0


def test_a_responder_that_is_killed_is_started_again(watched: LoaderProcess) -> None:
    before = responder_of(watched)
    os.kill(before, signal.SIGKILL)
    wait_for("it to be gone", lambda: not alive(before))
    assert scrape(watched.figures_at[0]).total("service_starts_total") == 1
    assert responder_of(watched) != before
    assert "the process that answers scrapes ended (by SIGKILL); another takes its place" in watched.log.read_text()


def test_counters_go_on_after_a_restart_of_the_service_and_all_end_with_it(packed: Path, tmp_path: Path) -> None:
    with LoaderProcess(packed, tmp_path, 1, ANY_PORT, *METRICS, restarts=True) as command:
        (url,) = command.figures_at
        assert f"; figures at {url}" in command.log.read_text()
        with LoaderClient(command.endpoint) as client:
            batches = client.stream(SPEC, 50).batches(range(2))
            next(batches)
            before = scrape(url)
            command.signal(signal.SIGKILL)
            assert sum(len(batch) for batch in batches) == 250
        after = scrape(url)
        assert (before.total("service_starts_total"), after.total("service_starts_total")) == (1, 2)
        assert after.total("images_total") >= 300
        assert after.total("start_time_seconds") > before.total("start_time_seconds")
        everyone = [command.pid, responder_of(command), *command.workers]
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(timeout=60) == 0
        wait_for("all to be gone", lambda: not any(map(alive, everyone)))


def test_a_taken_port_and_a_missing_library_end_a_loader_at_once(
    watched: LoaderProcess, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = watched.figures_at[0].removeprefix("http://").removesuffix("/metrics")
    options = ["--data", str(packed), "--workers", "1", "--metrics", taken]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert done.output == f"alexnet-loader: error: cannot listen on {taken}: Address already in use (--metrics)\n"
    done = CliRunner().invoke(main, [*options[:-1], "192.0.2.1:9400", "--insecure"])
    assert done.exit_code == 2
    assert done.output.endswith("cannot listen on 192.0.2.1:9400: Cannot assign requested address (--metrics)\n")
    monkeypatch.setattr(entry, "find_spec", lambda name: None)
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert 'prometheus_client is not installed; pip install "alexnet[metrics]"' in done.output


def test_figures_for_other_hosts_need_consent_with_keys_as_without(tmp_path: Path) -> None:
    refuse_open_metrics("127.0.0.1:9400", insecure=False)
    refuse_open_metrics("[::1]:9400", insecure=False)
    for address in ("0.0.0.0:9400", "[::]:9400", "10.0.0.1:9400", "host:9400"):
        with pytest.raises(UsageError, match="--insecure"):
            refuse_open_metrics(address, insecure=False)
        refuse_open_metrics(address, insecure=True)
        refuse_open_bind("tcp://*:5", tmp_path, insecure=True, metrics=address)
    with pytest.raises(UsageError, match="--keys"):
        refuse_open_bind("tcp://*:5", tmp_path, insecure=True, metrics="127.0.0.1:9400")


def test_the_dashboard_shows_figures_that_there_are() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    named = {name for expression in expressions for name in re.findall(r"alexnet_loader_\w+", expression)}
    assert named == {PREFIX + figure.name for figure in FIGURES}
    labels = {label for figure in FIGURES for label in figure.labels} | {"instance"}
    used = {label for each in expressions for label in re.findall(r"(\w+)=~?\"|by \((\w+)\)", each) for label in label}
    assert used - {""} <= labels
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
