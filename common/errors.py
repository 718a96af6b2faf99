"""Every error a person can act on.

    AlexNetError                      exit code 1
    |-- UsageError                    exit code 2: an option, a path or a value is wrong
    |-- DatasetError                  a data set is missing, incomplete, damaged or of another format
    |-- PackError                     packing stopped; what is committed stays, and the same command goes on from there
    |-- BadImage                      one picture cannot be decoded; the reason is the message
    |-- BadRecord                     a record is no picture, and nothing can or may take its place
    |-- WireError                     a message that breaks the protocol
    |   `-- VersionMismatch           the peer speaks another version of it
    |-- LoaderError                   the loader service cannot give what was asked, or not to one who asks so
    |   |-- LoaderRefused             it said no: other data set, other version, batch too large
    |   |   `-- NoSuchSplit             its data set has no such split
    |   |-- LoaderFault               it failed on a record or a ticket
    |   `-- LoaderTimeout             it said nothing for too long
    |-- ExchangeError                 copies between two GPUs arrive with wrong bits
    |-- CheckpointError               a checkpoint is missing, damaged or of another network
    |-- OutputError                   what a command was asked for cannot be written to stdout
    |   `-- ReaderGone                  nobody reads it any longer, as behind `| head`: the command ends without a word
    |-- SaveError                     the disk does not take a run's files; what was saved before is intact
    `-- Diverged                      training no longer computes numbers

Each message is one line that says what is wrong and, where there is one, which option changes it.
`assert` is kept for bugs of our own.
"""


class AlexNetError(Exception):
    exit_code = 1


class UsageError(AlexNetError):
    exit_code = 2


class DatasetError(AlexNetError):
    pass


class PackError(AlexNetError):
    pass


class BadImage(AlexNetError):
    pass


class BadRecord(AlexNetError):
    def __init__(self, record: int, reason: str) -> None:
        super().__init__(record, reason)
        self.record, self.reason = record, reason

    def __str__(self) -> str:
        return f"record {self.record}: {self.reason}"


class WireError(AlexNetError):
    pass


class VersionMismatch(WireError):
    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(f"the peer speaks protocol version {theirs}, this program version {ours}")
        self.theirs, self.ours = theirs, ours


class LoaderError(AlexNetError):
    pass


class LoaderRefused(LoaderError):
    pass


class NoSuchSplit(LoaderRefused):
    pass


class LoaderFault(LoaderError):
    pass


class LoaderTimeout(LoaderError):
    pass


class ExchangeError(AlexNetError):
    pass


class CheckpointError(AlexNetError):
    pass


class OutputError(AlexNetError):
    pass


class ReaderGone(OutputError):
    pass


class SaveError(AlexNetError):
    pass


class Diverged(AlexNetError):
    pass
