"""Errors a user can act on.

AlexNetError            exit code 1
  UsageError            exit code 2: wrong option, path or value
  DatasetError          missing, incomplete, damaged or of another format
  PackError             packing stopped; the same command resumes it
  BadImage              it cannot be decoded
  BadRecord             corrupt, and no other may stand in for it
  WireError             a message breaks the protocol
    VersionMismatch     the peer speaks another version
  LoaderError           a misuse of the client, or no service can deliver
    LoaderRefused       other dataset or version, batch too large
      NoSuchSplit       the dataset has none of that name
    LoaderFault         failed on a record or a ticket
    LoaderTimeout       no response for too long
  ExchangeError         copies between two GPUs arrive with wrong bits
  RankLost              another rank of the run ended, stopped or is out of reach
  ToldByAnother         another rank says why: ends silently
  CheckpointError       missing, damaged or of another network
  OutputError           stdout cannot be written
    ReaderGone          nobody reads it (`| head`): ends silently
  SaveError             the disk refuses a run's files; earlier ones are intact
  Diverged              training computes NaN or infinity
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


class RankLost(AlexNetError):
    pass


class ToldByAnother(AlexNetError):
    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


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
