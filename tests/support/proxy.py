"""A bad network between clients and one service: loses, repeats and delays some messages."""

import heapq
import itertools
import random
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import zmq

_TICK_MS = 5


@dataclass(frozen=True)
class Faults:
    """Shares of messages; a delayed one comes up to `delay_s` later, after others sent behind it."""

    lost: float = 0.02
    repeated: float = 0.05
    delayed: float = 0.1
    delay_s: float = 0.3


class Proxy:
    """Forwards between clients, who connect to `endpoint`, and the service at `backend`, in a `with` block.

    The service sees a connection for each client. `forwarded` counts messages by what became of them.
    """

    def __init__(self, backend: str, seed: int, faults: Faults) -> None:
        self._backend, self._random, self._faults = backend, random.Random(seed), faults
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front = self._socket(zmq.ROUTER)
        self._front.bind("tcp://127.0.0.1:*")
        self.endpoint = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._backs: dict[bytes, zmq.Socket[bytes]] = {}
        self._late: list[tuple[float, int, zmq.Socket[bytes], list[bytes]]] = []
        self._order = itertools.count()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self.forwarded = dict.fromkeys(("lost", "repeated", "delayed", "all"), 0)

    def _socket(self, kind: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.set_hwm(0)
        return socket

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        while not self._ended.is_set():
            for socket, _ in poller.poll(_TICK_MS):
                frames = socket.recv_multipart()
                if socket is not self._front:
                    client = next(client for client, back in self._backs.items() if back is socket)
                    self._forward(self._front, [client, *frames])
                    continue
                if frames[0] not in self._backs:
                    self._backs[frames[0]] = back = self._socket(zmq.DEALER)
                    back.connect(self._backend)
                    poller.register(back, zmq.POLLIN)
                self._forward(self._backs[frames[0]], frames[1:])
            while self._late and self._late[0][0] < time.monotonic():
                _, _, target, frames = heapq.heappop(self._late)
                target.send_multipart(frames)
        self._context.destroy(linger=0)

    def _forward(self, target: "zmq.Socket[bytes]", frames: list[bytes]) -> None:
        faults, draw = self._faults, self._random.random
        self.forwarded["all"] += 1
        if draw() < faults.lost:
            self.forwarded["lost"] += 1
            return
        repeated = draw() < faults.repeated
        self.forwarded["repeated"] += repeated
        for _ in range(1 + repeated):
            if draw() < faults.delayed:
                self.forwarded["delayed"] += 1
                due = time.monotonic() + draw() * faults.delay_s
                heapq.heappush(self._late, (due, next(self._order), target, frames))
            else:
                target.send_multipart(frames)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
