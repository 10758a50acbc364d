"""The TLS connection under an MQTT session, opened without blocking the loop.

A broker refuses a client certificate only after the handshake of TLS 1.3 is over for
the client, with an alert on the first read: ``Wire`` remembers it, so that a person
is told of the certificate and not of a closed connection.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from quarterdeck_shared.bus.port import Endpoint
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError, TransientError

_READ_BYTES = 64 * 1024
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR")


class Wire:
    """A non-blocking TLS socket with a read buffer.

    The buffer saves a system call per byte of a header, and makes it known when
    nothing is left to read: bytes that TLS has already taken from the kernel are
    never signalled by a selector.

    Attributes:
        drained: Whether the last read found nothing.
        error: What a read or a write failed with.
    """

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.drained = False
        self.error: OSError | None = None
        self._tls = tls
        self._buffer = b""
        self._at = 0

    def recv(self, buffer_size: int) -> bytes:
        """Return up to ``buffer_size`` bytes; empty at the end of the stream."""
        if self._at == len(self._buffer):
            self._fill()
        piece = self._buffer[self._at : self._at + buffer_size]
        self._at += len(piece)
        return piece

    def send(self, buffer: bytes | bytearray) -> int:
        """Send what can be sent now and return how much that was."""
        try:
            return self._tls.send(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.error = self._last_words() or error
            raise

    def close(self) -> None:
        """Close the socket."""
        self._tls.close()

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._tls.fileno()

    def setblocking(self, flag: bool) -> None:
        """Set the mode of the socket, which is non-blocking from the start."""
        self._tls.setblocking(flag)

    def _last_words(self) -> ssl.SSLError | None:
        """Return the alert that was sent before the connection was closed on us."""
        try:
            self._tls.recv(_READ_BYTES)
        except ssl.SSLError as alert:
            return None if isinstance(alert, ssl.SSLEOFError) else alert
        except OSError:
            return None
        return None

    def _fill(self) -> None:
        self.drained = True
        try:
            self._buffer = self._tls.recv(_READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.error = error
            raise
        self._at = 0
        self.drained = False


async def open_wire(endpoint: Endpoint, *, timeout_s: float) -> Wire:
    """Return a TLS connection to ``endpoint``.

    Raises:
        TransientError: ``BROKER_UNREACHABLE``.
        RejectedError: ``CERTIFICATE_INVALID``.
    """
    context = _context(endpoint)
    try:
        async with asyncio.timeout(timeout_s):
            return Wire(await _connect(endpoint, context))
    except TimeoutError as error:
        where = f"{endpoint.host}:{endpoint.port}"
        raise TransientError(
            Code.BROKER_UNREACHABLE, f"{where}: no answer within {timeout_s:g} s"
        ) from error
    except OSError as error:
        raise explain(error, endpoint) from error


def explain(error: OSError | None, endpoint: Endpoint) -> QuarterdeckError:
    """Return what ``error`` of the connection means to a person."""
    where = f"{endpoint.host}:{endpoint.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = f"{where}: the broker's certificate: {error.verify_message}"
        return RejectedError(Code.CERTIFICATE_INVALID, detail)
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _explain_tls(error, where)
    closed = error is None or isinstance(error, ssl.SSLEOFError)
    reason = "the broker closed the connection" if closed else str(error)
    return TransientError(Code.BROKER_UNREACHABLE, f"{where}: {reason}")


def _explain_tls(error: ssl.SSLError, where: str) -> QuarterdeckError:
    reason = (error.reason or str(error)).upper()
    said = reason.lower().replace("_", " ")
    if any(alert in reason for alert in _CERTIFICATE_ALERTS):
        detail = f"{where}: the broker refused our certificate: {said}"
        return RejectedError(Code.CERTIFICATE_INVALID, detail)
    return TransientError(Code.BROKER_UNREACHABLE, f"{where}: TLS failed: {said}")


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    """Return the TLS settings, from files read anew: certificates get renewed."""
    try:
        context = ssl.create_default_context(cafile=str(endpoint.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(str(endpoint.certificate), str(endpoint.key))
    except OSError as error:
        files = f"{endpoint.ca}, {endpoint.certificate}, {endpoint.key}"
        detail = f"one of {files} cannot be used: {error}"
        raise RejectedError(Code.CERTIFICATE_INVALID, detail) from error
    return context


async def _connect(endpoint: Endpoint, context: ssl.SSLContext) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    )
    plain = await _connect_any(addresses)
    tls = context.wrap_socket(
        plain, server_hostname=endpoint.host, do_handshake_on_connect=False
    )
    try:
        await _handshake(tls)
    except BaseException:
        tls.close()
        raise
    return tls


async def _connect_any(
    addresses: Iterable[
        tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
    ],
) -> socket.socket:
    last: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(0)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(plain, address)
        except OSError as error:
            plain.close()
            last = error
        except BaseException:
            plain.close()
            raise
        else:
            return plain
    raise last or OSError("the host name has no address")


async def _handshake(tls: ssl.SSLSocket) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(tls, writing=False)
        except ssl.SSLWantWriteError:
            await _ready(tls, writing=True)
        else:
            return


async def _ready(tls: ssl.SSLSocket, *, writing: bool) -> None:
    """Wait until the socket can be read from, or written to."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add = loop.add_writer if writing else loop.add_reader
    remove = loop.remove_writer if writing else loop.remove_reader
    add(tls.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        remove(tls.fileno())
