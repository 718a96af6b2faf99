"""Which slots of a slab are free. A plain table: no process, no memory, no socket.

free -> filling   taken for a ticket; its generation goes up by one
filling -> lent   the worker is done; the client, or the socket on its behalf, reads from it
lent -> free      given back, by slot and generation
filling -> free   the ticket failed, or its worker died
"""


class SlotTable:
    """States of `slots` slots. The slot freed last is taken first, since its pages are still in the cache."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))
        self._filling: set[int] = set()
        self._lent: set[int] = set()
        self._generation = [0] * slots

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        slot = self._free.pop()
        self._filling.add(slot)
        self._generation[slot] = (self._generation[slot] + 1) % 2**32
        return slot

    def lend(self, slot: int) -> int:
        """The slot's generation, to be named when it is given back."""
        self._filling.remove(slot)
        self._lent.add(slot)
        return self._generation[slot]

    def give_back(self, slot: int, generation: int) -> bool:
        """Free a lent slot; False where it is not lent, or not with this generation."""
        if slot not in self._lent or self._generation[slot] != generation:
            return False
        self._lent.remove(slot)
        self._free.append(slot)
        return True

    def abandon(self, slot: int) -> None:
        """Free a slot whose filling came to nothing."""
        self._filling.remove(slot)
        self._free.append(slot)
