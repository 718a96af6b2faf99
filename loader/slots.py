"""Which slots of a slab are free. A plain table: no process, no memory, no socket.

free -> filling   taken for a ticket
filling -> lent   the worker is done, the socket reads from it
lent -> free      the socket is done
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

    @property
    def lent(self) -> int:
        return len(self._lent)

    def take(self) -> int:
        slot = self._free.pop()
        self._filling.add(slot)
        return slot

    def lend(self, slot: int) -> None:
        self._filling.remove(slot)
        self._lent.add(slot)

    def give_back(self, slot: int) -> None:
        """Free a slot that was lent or being filled; a slot that is neither is an error of ours."""
        assert slot in self._filling or slot in self._lent, f"slot {slot} is free already"
        self._filling.discard(slot)
        self._lent.discard(slot)
        self._free.append(slot)
