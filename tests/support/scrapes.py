"""Scrapes of a loader's --metrics endpoint."""

import socket
import urllib.request
from typing import NamedTuple
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families


class Scrape(NamedTuple):
    """The value of each sample by name and labels, and the type of each family."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    types: dict[str, str]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        found = [
            value
            for (sample, of), value in self.samples.items()
            if sample == f"alexnet_loader_{name}" and labels.items() <= of
        ]
        assert found, f"no {name} of {labels}"
        return sum(found)


def scrape(url: str) -> Scrape:
    with urllib.request.urlopen(url, timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    return Scrape(samples, {family.name: family.type for family in families})


def connect(url: str) -> socket.socket:
    at = urlsplit(url)
    assert at.hostname
    assert at.port
    return socket.create_connection((at.hostname, at.port), timeout=60)


def ask(url: str, request: bytes) -> bytes:
    """The whole answer to raw bytes; empty if the connection is cut."""
    with connect(url) as connection:
        try:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except ConnectionError:
            return b""
