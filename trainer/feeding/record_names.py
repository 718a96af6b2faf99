"""Names of records, for people and files: what cannot be had is left empty, for no name is worth a run."""

import logging
from collections.abc import Sequence

from common.client.stream import Stream
from common.errors import LoaderError

log = logging.getLogger(__name__)


def names_of(stream: Stream, records: Sequence[int]) -> list[str]:
    """Path of each record's file; "" if the loader does not know or say it."""
    try:
        return stream.names(records)
    except LoaderError as error:
        log.warning("the files of %d records are not named: %s", len(records), error)
        return [""] * len(records)
