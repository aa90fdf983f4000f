"""A job server that does what a test tells it: for what a real one does too seldom to be waited for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from gearworker.protocol.codec import Decoder, encode_response
from gearworker.protocol.packets import REQUEST_MAGIC, Packet, PacketType

Answer = Callable[["Peer", Packet], None]


class Peer:
    """One connection to the scripted server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, packet_type: PacketType, *args: bytes) -> None:
        """Send a packet."""
        self.sock.sendall(encode_response(packet_type, *args))

    def hang_up(self) -> None:
        """End the connection."""
        self.sock.shutdown(socket.SHUT_RDWR)


class ScriptedServer:
    """Calls a function for each packet that comes, each connection in a thread of its own.

    Args:
        answer: called with the Peer and the Packet; OPTION_REQ is answered without asking it.
        host: the loopback address to listen on.
    """

    def __init__(self, answer: Answer, *, host: str = "127.0.0.1") -> None:
        self._answer = answer
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.packets: list[Packet] = []
        self._peers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._peers.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        peer, decoder = Peer(sock), Decoder(REQUEST_MAGIC)
        with contextlib.suppress(OSError):
            while data := sock.recv(1 << 18):
                for packet in decoder.feed(data):
                    assert isinstance(packet, Packet), packet
                    self.packets.append(packet)
                    if packet.type == PacketType.OPTION_REQ:
                        peer.send(PacketType.OPTION_RES, packet.args[0])
                    else:
                        self._answer(peer, packet)
        sock.close()

    def close(self) -> None:
        """End the listener and all connections."""
        for sock in (self._listener, *self._peers):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
