"""Whom an attack is aimed at, and with which key it connects."""

from pathlib import Path
from typing import Any

import zmq

from keepwarm_wire.credentials import to_z85
from keepwarm_wire.key_files import StoredKey, read_key

__all__ = ["Target"]

HANDSHAKE_MS = 5_000


class Target:
    """A scheduler on a TCP port, and the attacker's key, if it has one."""

    def __init__(self, host: str, port: int, key_file: Path) -> None:
        self.host, self.port = host, port
        self.key: StoredKey = read_key(key_file)

    @property
    def address(self) -> str:
        """For ZeroMQ."""
        return f"tcp://{self.host}:{self.port}"

    def dealer(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        *,
        pair: tuple[bytes, bytes] | None = None,
        routing_id: bytes = b"",
        high_water: int = 200,
    ) -> "zmq.Socket[bytes]":
        """A connection with the attacker's key, or another pair of keys in Z85."""
        public, secret = pair or (self.key.pair.public_z85, self.key.pair.secret_z85)
        dealer = context.socket(zmq.DEALER)
        options: list[tuple[int, Any]] = [
            (zmq.LINGER, 0),
            (zmq.SNDHWM, high_water),
            (zmq.RCVHWM, high_water),
            (zmq.SNDTIMEO, 200),
            (zmq.CURVE_SERVERKEY, to_z85(self.key.server).encode()),
            (zmq.CURVE_PUBLICKEY, public),
            (zmq.CURVE_SECRETKEY, secret),
        ]
        if routing_id:
            options.append((zmq.ROUTING_ID, routing_id))
        for option, value in options:
            dealer.setsockopt(option, value)
        dealer.connect(self.address)
        return dealer
