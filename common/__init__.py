"""What both sides share: the wire, the stream's specification, the client. numpy, zmq, msgpack and xxhash, no more."""
