"""Exposure of the service's endpoints: to this host alone, or to others."""

import ipaddress
import logging
from pathlib import Path

from common.errors import UsageError

log = logging.getLogger(__name__)

_TCP, _IPC = "tcp://", "ipc://"
_LAST_PORT = 65535


def refuse_open_bind(bind: str, key_folder: Path | None, insecure: bool, metrics: str | None = None) -> None:
    """Raise UsageError if other hosts could reach the endpoint without keys, unless `insecure` allows it.

    With keys `insecure` is refused, unless it is for an open `metrics`.
    """
    if not bind.startswith((_TCP, _IPC)):
        raise UsageError(f"{bind!r} is neither tcp://HOST:PORT nor ipc://PATH (--bind)")
    if key_folder is not None:
        if insecure and (metrics is None or _is_local(metrics)):
            raise UsageError("--insecure cannot be used with --keys")
        return
    if bind.startswith(_IPC) or _is_local(bind.removeprefix(_TCP)):
        return
    if not insecure:
        raise UsageError(
            f"{bind} can be reached from other hosts, by anyone: --keys DIR names who may and encrypts"
            " (alexnet-loader keys DIR makes keys; --insecure serves anyone)"
        )
    log.warning("%s can be reached from other hosts, by anyone, and nothing is encrypted (--insecure)", bind)


def binds_of(bind: str, services: int) -> list[str]:
    """An endpoint for each service: `bind`, and the ports behind it. Raises UsageError if it has none."""
    if services == 1:
        return [bind]
    host, _, port = bind.rpartition(":")
    if not bind.startswith(_TCP):
        raise UsageError(f"{bind} is one endpoint; several services need tcp://HOST:PORT (--bind, --services)")
    if not (port.isascii() and port.isdecimal()) or int(port) == 0:
        return [bind] * services
    ports = range(int(port), int(port) + services)
    if ports[-1] > _LAST_PORT:
        raise UsageError(f"{bind} and the next {services - 1} ports go beyond {_LAST_PORT} (--bind, --services)")
    return [f"{host}:{each}" for each in ports]


def refuse_open_metrics(address: str, insecure: bool) -> None:
    """Raise UsageError if other hosts could read the figures at HOST:PORT, unless `insecure` allows it."""
    if _is_local(address):
        return
    if not insecure:
        raise UsageError(
            f"the figures at {address} could be read from other hosts, by anyone: --insecure allows that (--metrics)"
        )
    log.warning("the figures at %s can be read from other hosts, by anyone, unencrypted (--insecure)", address)


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0]
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
