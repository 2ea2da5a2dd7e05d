"""A server that sends back what it receives, as a program of its own: ``python -IS echo.py PORT [SYNC_FILE]``.

With a file it appends each piece to it, and syncs it, before it answers: an answer means that the piece is on disk.
What cannot be written is answered with ``!`` and the name of the error. It imports nothing but the standard library.
"""

import errno
import os
import socket
import sys
import threading

_PIECE_BYTES = 64 * 1024


def _answer(piece: bytes, file: int | None) -> bytes:
    if file is None:
        return piece
    try:
        os.write(file, piece)
        os.fsync(file)
    except OSError as error:
        return b"!" + errno.errorcode[error.errno or 0].encode()
    return piece


def _serve(connection: socket.socket, file: int | None) -> None:
    try:
        with connection:
            while piece := connection.recv(_PIECE_BYTES):
                connection.sendall(_answer(piece, file))
    except OSError:
        return  # the other side is gone


def main() -> None:
    """Serve until killed."""
    port, *files = sys.argv[1:]
    file = os.open(files[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if files else None
    with socket.create_server(("0.0.0.0", int(port)), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, file), daemon=True).start()


if __name__ == "__main__":
    main()
