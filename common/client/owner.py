"""Ownership of a client, whose sockets survive no fork and are not thread-safe."""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from ..errors import LoaderError, UsageError

Result = TypeVar("Result")


class Owner:
    """Lets one call at a time use a client, in the process that opened it.

    close           called once, never during a call
    interruptions   calls ended by a foreign exception, which may have left things half done
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close, self._pid, self._lock = close, os.getpid(), threading.Lock()
        self._thread = 0  # that has the lock
        self._closing = self._closed = False
        self.interruptions = 0

    @property
    def is_other_process(self) -> bool:
        return os.getpid() != self._pid

    def run(self, call: Callable[[], Result]) -> Result:
        """Run `call`. Raises LoaderError in another process, during another call or after `close`."""
        self._refuse_other_process()
        if self._lock.locked():
            raise LoaderError(
                "the client is in the middle of another call, of "
                + ("this thread" if self._thread == threading.get_ident() else "another thread")
                + ": it serves one at a time; open a LoaderClient for each thread"
            )
        with self._lock:
            self._thread = threading.get_ident()
            try:
                self.refuse_closed()
                return call()
            except (LoaderError, UsageError, StopIteration):
                raise
            except BaseException:
                self.interruptions += 1
                raise
            finally:
                self._close_if_asked()

    def close(self) -> None:
        """Close the client, unless in another process; another thread's call ends in LoaderError first."""
        if self.is_other_process:
            return
        self._closing = True
        if self._lock.locked() and self._thread == threading.get_ident():
            return  # in a signal handler: the call that it interrupted closes, on its way out
        with self._lock:
            self._close_if_asked()

    def refuse_closed(self) -> None:
        if self._closing:
            raise LoaderError("the client was closed; open another LoaderClient")

    def _close_if_asked(self) -> None:
        if self._closing and not self._closed:
            self._close()
            self._closed = True

    def _refuse_other_process(self) -> None:
        if self.is_other_process:
            raise LoaderError(
                f"the client was opened in process {self._pid} and is used in process {os.getpid()}, forked from it:"
                " its sockets do not survive that; open the LoaderClient in the process that reads (in a torch"
                " DataLoader's worker: in the dataset's __iter__)"
            )
