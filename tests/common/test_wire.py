"""Messages survive the wire, and nothing else does."""

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError, VersionMismatch, WireError
from common.spec import StreamSpec
from common.wire import fields, messages

STREAM = bytes(range(16))
REPLACED: Any = [[1281, 9, "checksum"]]  # lists, as they come back
MESSAGES = [
    messages.Hello(1, "train", 2**63 - 1, "train", 227, 0.1, "uint8", "stop", False, True, 128, 4),
    messages.Welcome(1, STREAM, b"12345678", 10, ["a", "b"], STREAM, "libjpeg", 2, 8, 4, 77, 5, STREAM, 6, 4096),
    messages.Ticket(5, STREAM, 3, 1280, 128, True, 3, b"\1\0\0\0\7\0\0\0"),
    messages.BatchReply(5, STREAM, b"\0" * 8, b"\0" * 8, messages.NO_SLOT, b"", b"", [], [0] * 5, 2),
    messages.BatchReply(5, STREAM, b"\0" * 8, b"\0" * 8, 3, STREAM, bytes(16), REPLACED, [0, 12, 340, 25_000, 30], 0),
    messages.Fault(-1, b"", messages.REFUSED, "no such split", messages.NO_RECORD),
    messages.AskNames(2**62, STREAM, b"\0\0\0\0\7\0\0\0"),
    messages.NamesReply(2**62, STREAM, [b"ape/00001.jpg", b"", b"\xff"]),
    messages.Ping(),
    messages.Pong(b"12345678", 2, 8, 0),
    messages.Bye(STREAM),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_every_kind_comes_back_as_it_was_sent(message: messages.Message) -> None:
    assert messages.decode(messages.encode(message), message.payloads) == message


def test_a_stream_comes_back_whole() -> None:
    """Each value another than its default, so that two fields that changed places would show."""
    spec = StreamSpec("val", 7, "full", 100, 0.5, "float32", "stop", shuffle=False)
    came = messages.decode(messages.encode(messages.Hello.of(1, spec, digests=True, batch_size=8)))
    assert isinstance(came, messages.Hello)
    assert came.spec == spec
    assert (came.request, came.digests, came.batch_size) == (1, True, 8)


@pytest.mark.parametrize("view", ["", "half"])
def test_an_unknown_view_is_decoded_so_that_the_service_can_refuse_it(view: str) -> None:
    hello = messages.Hello(1, "train", 0, view, 227, 0.1, "uint8", "stop", False, True, 128, 1)
    came = messages.decode(messages.encode(hello))
    assert isinstance(came, messages.Hello)
    with pytest.raises(UsageError, match="view is"):
        _ = came.spec


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_a_field_of_another_type_is_refused_by_name(message: messages.Message) -> None:
    values = msgpack.unpackb(messages.encode(message))
    for index in range(2, len(values)):
        broken = [*values[:index], {"a": 1}, *values[index + 1 :]]
        with pytest.raises(WireError, match=f"{message.kind}: field"):
            messages.decode(msgpack.packb(broken), message.payloads)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_missing_fields_and_frames_are_refused(message: messages.Message) -> None:
    values = msgpack.unpackb(messages.encode(message))
    with pytest.raises(WireError, match="fields"):
        messages.decode(msgpack.packb([*values, 0]), message.payloads)
    with pytest.raises(WireError, match="payload"):
        messages.decode(messages.encode(message), message.payloads + 1)


@pytest.mark.parametrize(
    "ticket",
    [
        messages.Ticket(-1, STREAM, 0, 0, 1, False, 0, b""),
        messages.Ticket(0, STREAM, 0, 0, 0, False, 0, b""),
        messages.Ticket(0, STREAM, 0, 0, fields.MAX_COUNT + 1, False, 0, b""),
        messages.Ticket(0, STREAM[:15], 0, 0, 1, False, 0, b""),
        messages.Ticket(True, STREAM, 0, 0, 1, False, 0, b""),
        messages.Ticket(0, STREAM, 0, 0, 1, 1, 0, b""),  # type: ignore[arg-type]
        messages.Ticket(0, STREAM, 0, 0, 1, False, 0, b"1234567"),
        messages.Ticket(0, STREAM, 0, 0, 1, False, -1, b""),
    ],
)
def test_values_out_of_range_are_refused(ticket: messages.Ticket) -> None:
    with pytest.raises(WireError, match="TICKET: field"):
        messages.decode(messages.encode(ticket))


@pytest.mark.parametrize("stages", [[0] * 4, [0] * 6, [0, 0, -1, 0, 0], [0.5] * 5, [0, 0, 0, 0, 1 << 51], [True] * 5])
def test_durations_out_of_range_are_refused(stages: list[int]) -> None:
    reply = messages.BatchReply(5, STREAM, b"\0" * 8, b"\0" * 8, messages.NO_SLOT, b"", b"", [], stages, 2)
    with pytest.raises(WireError, match="BATCH: field stages"):
        messages.decode(messages.encode(reply), 1)


def test_another_version_is_refused_naming_both() -> None:
    with pytest.raises(VersionMismatch, match=f"version 99, this program version {messages.VERSION}"):
        messages.decode(msgpack.packb([99, "PING"]))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_wire_error(header: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(messages.decode(header), messages.Message)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@given(st.sampled_from([m.kind for m in MESSAGES]), st.lists(values, max_size=12), st.integers(0, 2))
def test_any_msgpack_is_a_message_or_a_wire_error(kind: str, fields: list[object], payloads: int) -> None:
    try:
        message = messages.decode(msgpack.packb([messages.VERSION, kind, *fields]), payloads)
    except WireError:
        return
    assert messages.decode(messages.encode(message), payloads) == message
