"""JAX's connection to its coordinator, through this process.

JAX aborts the process at the moment its connection breaks, before anything can be said or saved.
Behind a relay it finds silence instead, and `Peers` has the first word.
"""

import contextlib
import socket
import threading


def relay(host: str, port: int) -> str:
    """An address on this machine whose connections are carried on to `host` and `port`."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, host, port), daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket, host: str, port: int) -> None:
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection((host, port))
        except OSError:
            near.close()
            continue
        threading.Thread(target=_carry, args=(near, far, True), daemon=True).start()
        threading.Thread(target=_carry, args=(far, near, False), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket, closes: bool) -> None:
    """Copies bytes until the source ends, and then says so to the target, if it `closes`."""
    with contextlib.suppress(OSError):
        while found := source.recv(2**16):
            target.sendall(found)
    if closes:
        target.close()
