"""What processes of one run say to each other: JSON objects, a line each, over a socket."""

import json
import select
import socket
import time
from typing import Any

LONGEST = 2**24  # bytes of a message; a stranger at the port may send anything


class Channel:
    """One end of a connection; every call returns within its time."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(5)  # of sends; what is read has been waited for
        self._rest, self._read = b"", []

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> bool:
        """Whether it could be handed to the network."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def come(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None when the other end is gone."""
        try:
            found = self.socket.recv(2**16)
        except TimeoutError:
            return []
        except OSError:
            found = b""
        lines = (self._rest + found).split(b"\n")
        self._rest = lines.pop()
        if not found or len(self._rest) > LONGEST:
            return None
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(message, dict) for message in messages) else None

    def receive(self, deadline: float) -> dict[str, Any] | None:
        """The next message that is not a beat; None when none comes by then, or the end is gone.

        Args:
          deadline: by `time.monotonic`.
        """
        while True:
            while self._read:
                if message := self._read.pop(0):
                    return message
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            if (messages := self.come()) is None:
                return None
            self._read += messages

    def close(self) -> None:
        self.socket.close()
