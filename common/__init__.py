"""What both sides share: the wire, the stream's specification, the client. Standard library, numpy, zmq, msgpack."""
