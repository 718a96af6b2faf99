"""Exposure of the service's endpoint: to this host alone, or to others."""

import ipaddress
import logging
from pathlib import Path

from common.errors import UsageError

log = logging.getLogger(__name__)

_TCP, _IPC = "tcp://", "ipc://"


def refuse_open_bind(bind: str, key_folder: Path | None, insecure: bool) -> None:
    """Raise UsageError if other hosts could reach the endpoint without keys, unless `insecure` allows it."""
    if not bind.startswith((_TCP, _IPC)):
        raise UsageError(f"{bind!r} is neither tcp://HOST:PORT nor ipc://PATH (--bind)")
    if key_folder is not None:
        if insecure:
            raise UsageError("--insecure cannot be used with --keys")
        return
    if bind.startswith(_IPC) or _is_loopback(bind.removeprefix(_TCP).rpartition(":")[0]):
        return
    if not insecure:
        raise UsageError(
            f"{bind} can be reached from other hosts, by anyone: --keys DIR names who may and encrypts"
            " (alexnet-loader keys DIR makes keys; --insecure serves anyone)"
        )
    log.warning("%s can be reached from other hosts, by anyone, and nothing is encrypted (--insecure)", bind)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
