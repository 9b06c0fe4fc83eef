"""A peer that resets (SO_LINGER 0) at every point of a dialogue, one connection for each:

    resets.py MODE PORT [FROM TO STEP]

backlog  connects and resets TO times, without waiting to be accepted
send     sends the request, cut after each count of bytes FROM..TO, and resets
read     sends the whole request, reads so many bytes of the answer, and resets
half     the same as read, but its own side has ended before it reads
close    connects, waits for the first byte, and resets
tls12, tls13   sends so many bytes of a TLS session (handshake, then the request), and resets
tls12r, tls13r reads so many bytes of what the server says in it, and resets

PORT may be the name of a Unix socket, "@name": there is no SO_LINGER then, and who is closed with
something unread resets.

Prints how many bytes the last one could have sent or read in all.
What this is not: a test; resets_spec.lua runs it."""
import socket
import ssl
import struct
import sys
import time

REQUEST = b"\0\5helloa line\r\n12345678until.rest"


def dial(port):
    if port.startswith("@"):
        s = socket.socket(socket.AF_UNIX)
        s.connect("\0" + port[1:])
        return s
    s = socket.create_connection(("127.0.0.1", int(port)), 20)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read(s, n):
    """Up to n bytes -> how many came before the end."""
    got = 0
    while got < n:
        data = s.recv(n - got)
        if not data:
            break
        got += len(data)
    return got


def plain(mode, s, k):
    if mode == "send":
        s.sendall(REQUEST[:k])
        return len(REQUEST)
    if mode == "close":
        return read(s, 1)
    s.sendall(REQUEST)
    if mode == "half":
        s.shutdown(socket.SHUT_WR)
    return read(s, k)


class Session:
    """A TLS client that may send `out` bytes and read `into` bytes, or as many as it likes."""

    def __init__(self, s, version, out, into):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        self.socket, self.out, self.into = s, out, into
        self.sent = self.got = 0
        self.above, self.below = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.above, self.below, server_hostname="localhost")

    def flush(self):
        """False: all that may be sent was."""
        data = self.below.read()
        part = data[: self.out - self.sent]
        self.socket.sendall(part)
        self.sent += len(part)
        return len(part) == len(data)

    def fill(self):
        data = self.socket.recv(min(self.into - self.got, 65536)) if self.got < self.into else b""
        self.got += len(data)
        self.above.write(data)
        return len(data) > 0

    def run(self, call, *args):
        """False: a limit was reached, or the server ended."""
        while True:
            try:
                call(*args)
                return self.flush()
            except ssl.SSLWantReadError:
                if not (self.flush() and self.fill()):
                    return False


def secure(mode, s, k):
    version = ssl.TLSVersion.TLSv1_3 if mode[3:5] == "13" else ssl.TLSVersion.TLSv1_2
    reads = mode.endswith("r")
    session = Session(s, version, 1 << 30 if reads else k, k if reads else 1 << 30)
    if session.run(session.ssl.do_handshake) and session.run(session.ssl.write, REQUEST) and reads:
        while session.got < 1000 and session.run(session.ssl.read, 65536):
            pass
    return session.got if reads else session.sent


def main():
    mode, port = sys.argv[1], sys.argv[2]
    begin, end, step = (int(a) for a in sys.argv[3:6]) if len(sys.argv) > 3 else (0, 0, 1)
    most = 0
    for k in range(begin, end + 1, step):
        with dial(port) as s:
            if mode != "backlog":
                most = max(most, (secure if mode.startswith("tls") else plain)(mode, s, k))
    print(most)


main()
