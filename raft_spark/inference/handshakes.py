"""Authenticate the connections to the driver's port, where anybody may connect, also thousands at once.

Whoever does not prove within HANDSHAKE_SECONDS to have the run's key is disconnected, and earlier when MAX_HANDSHAKES
others wait. So strangers use up neither the driver's files nor its threads.
"""

import os
import socket
import threading
import time
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

HANDSHAKE_SECONDS = 2.0  # as long as a task waits for an answer
MAX_HANDSHAKES = 128
CONNECTION_ERRORS = (OSError, EOFError, AuthenticationError, AssertionError)  # the last: another program answers


class Handshakes:
    """Hold the connections that have not proved to have the key, the oldest first, and disconnect them when it is time."""

    def __init__(self) -> None:
        self._begun: dict[socket.socket, float] = {}
        self._lock = threading.Lock()  # a socket that has left is closed, and another may get its number

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._begun)

    def enter(self, opened: socket.socket) -> None:
        """Add a connection; disconnect the oldest when there are too many."""
        with self._lock:
            self._begun[opened] = time.monotonic()
        self.drop(len(self) - MAX_HANDSHAKES)

    def leave(self, opened: socket.socket) -> None:
        """Remove a connection."""
        with self._lock:
            self._begun.pop(opened, None)

    def drop(self, count: int) -> None:
        """Disconnect the oldest `count`, and all that are older than HANDSHAKE_SECONDS."""
        with self._lock:
            for number, (opened, begun) in enumerate(list(self._begun.items())):
                if number < count or begun + HANDSHAKE_SECONDS < time.monotonic():
                    del self._begun[opened]
                    with suppress(OSError):
                        opened.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads, which closing would not


def authenticate(opened: socket.socket, handshakes: Handshakes, key: bytes) -> Connection:
    """Return the connection of a task that has the key; close any other. Raises one of CONNECTION_ERRORS."""
    try:
        connection = Connection(os.dup(opened.fileno()))
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
        except CONNECTION_ERRORS:
            connection.close()
            raise
    finally:
        handshakes.leave(opened)
        opened.close()
    return connection
