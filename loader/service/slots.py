"""Which slots of a slab are free. A plain table: no process, no memory, no socket.

free -> filling   taken for a ticket
filling -> lent   the worker is done; the client, or the socket on its behalf, reads from it
lent -> free      given back
filling -> free   the ticket failed, or its worker died
"""


class SlotTable:
    """States of `slots` slots. The slot freed last is taken first, since its pages are still in the cache."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))
        self._filling: set[int] = set()
        self._lent: set[int] = set()

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        slot = self._free.pop()
        self._filling.add(slot)
        return slot

    def lend(self, slot: int) -> None:
        self._filling.remove(slot)
        self._lent.add(slot)

    def give_back(self, slot: int) -> None:
        self._lent.remove(slot)
        self._free.append(slot)

    def abandon(self, slot: int) -> None:
        """Free a slot whose filling came to nothing."""
        self._filling.remove(slot)
        self._free.append(slot)
