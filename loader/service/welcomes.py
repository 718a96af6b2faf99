"""WELCOMEs on their way: each carries a mean image, so those that do not read must not gather many."""

from loader.service.session import Tracker

MOST_OF_A_CLIENT = 4
MOST = 64  # of all clients, 50 MB


class Welcomes:
    """Those that have not left yet, oldest first. What leaves does so within a moment, if the client reads at all."""

    def __init__(self) -> None:
        self._leaving: list[tuple[bytes, Tracker]] = []

    def may_have(self, identity: bytes) -> bool:
        """False if so many of this client have not left yet that it reads nothing. It asks again if it does."""
        self._leaving = [one for one in self._leaving if not one[1].done]
        return sum(of == identity for of, _ in self._leaving) < MOST_OF_A_CLIENT

    def sent(self, identity: bytes, tracker: Tracker | None) -> bytes | None:
        """One was sent. Gives the client that has let one wait longest, if there are too many: it is to go."""
        if tracker is not None:
            self._leaving.append((identity, tracker))
        return self._leaving[0][0] if len(self._leaving) > MOST else None
