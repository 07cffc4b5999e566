"""How does a connection speak TLS, and with which key?

Keys are PEM (`ssl.keystore.type=PEM`), in files or in the configuration itself, as Apache Kafka takes them:

    listeners=PLAINTEXT://localhost:9092,SSL://localhost:9093
    ssl.keystore.type=PEM
    ssl.keystore.location=/path/to/private-key-and-certificate-chain.pem

1. The handshake happens where the first bytes are received, a piece at a time: whoever is slow with it, or never begins,
   keeps nobody waiting, and is closed after connections.max.idle.ms.
2. A client that speaks no TLS, has no certificate where one is required, or another version: its connection is closed,
   and one line in the log says what OpenSSL says.
3. What `receive` gives has been decrypted, and it goes on until OpenSSL has nothing left or the view is full: the event
   loop sees bytes in the socket, but not those in OpenSSL.
4. Records cannot go by sendfile: they are read in pieces of REGION_BYTES, and encrypted.

How Apache Kafka differs: it reads Java's key stores too, loads changed keys without a restart, and names the client by
its certificate for its authorizer; here a certificate only lets in.
"""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import Any

from refbroker.config import Config, ConfigError
from refbroker.log.disk import Disk, read_file
from refbroker.streams import PlainStream, file_ends

REGION_BYTES = 256 << 10  # of a file at a time: more than a socket takes at once
PEM_BYTES_MAX = 1 << 20  # a longer file is something else
CLIENT_AUTH = {"none": ssl.CERT_NONE, "requested": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL")  # OpenSSL's guess at bytes
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def server_context(disk: Disk, config: Config) -> ssl.SSLContext:
    """What the keys beginning with `ssl.` say. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = [VERSIONS[name] for name in config.ssl_enabled_protocols]
    if not versions:
        raise ConfigError("ssl.enabled.protocols: expected TLSv1.2, TLSv1.3 or both")
    context.minimum_version, context.maximum_version = min(versions), max(versions)
    if config.ssl_keystore_location:
        pem, where = _read(disk, config.ssl_keystore_location, "ssl.keystore.location"), "ssl.keystore.location"
    else:
        pem, where = f"{config.ssl_keystore_key}\n{config.ssl_keystore_certificate_chain}\n", "ssl.keystore.key"
    _load_key(context, pem, config.ssl_key_password, where)
    trusted = config.ssl_truststore_certificates
    if config.ssl_truststore_location:
        trusted = _read(disk, config.ssl_truststore_location, "ssl.truststore.location")
    try:
        if trusted:
            context.load_verify_locations(cadata=trusted)
        else:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    except ssl.SSLError as error:
        raise ConfigError(f"ssl.truststore: expected certificates as PEM: {error}") from None
    context.verify_mode = CLIENT_AUTH[config.ssl_client_auth]
    return context


def _read(disk: Disk, path: str, key: str) -> str:
    try:
        return read_file(disk, path, bytes_max=PEM_BYTES_MAX).decode()
    except (OSError, ValueError) as error:  # of UTF-8, too: a key store of Java's is binary
        raise ConfigError(f"{key}: {path}: expected a PEM file: {error}") from None


def _load_key(context: ssl.SSLContext, pem: str, password: str | None, where: str) -> None:
    """OpenSSL takes private keys from files only: they get one that exists in memory."""
    fd = os.memfd_create("ssl.keystore")
    try:
        os.write(fd, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=lambda: password or "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"{where}: expected a private key and its certificate chain as PEM, and the right ssl.key.password: {error}"
        ) from None
    finally:
        os.close(fd)


class TlsStream(PlainStream):
    """One TLS connection, as a `PlainStream`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: socket.socket, context: ssl.SSLContext):
        super().__init__(loop, connection)
        self._socket = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._fd = self._socket.fileno()
        self._shaken = False
        del self.receive  # of the plain one

    def receive(self, view: memoryview) -> int:
        if not self._shaken:
            self._shake_hands()
        total = 0
        while total < len(view):
            try:
                count = self._socket.recv_into(view[total:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not count:
                return total  # the end of the stream is told by the next call
            total += count
        if not total:
            raise BlockingIOError
        return total

    def _shake_hands(self) -> None:
        """A piece of the handshake. Raises BlockingIOError where it is not done yet, OSError where it failed."""
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLWantWriteError:  # the client does not read: its next bytes are when we try again
            raise BlockingIOError from None
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).replace("_", " ").lower()
            hint = "; does the client speak TLS?" if error.reason in NO_TLS else ""
            raise OSError(f"TLS handshake failed: {reason}{hint}") from None
        self._shaken = True

    def pending(self) -> bool:
        return self._shaken and self._socket.pending() > 0

    def _send(self, data: Any, more: bool) -> int:
        try:
            return self._socket.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    def _region(self, region: Any) -> "EncryptedRegion":
        return EncryptedRegion(self, region)

    def close(self) -> None:
        self.unwatch()
        if self._shaken:
            with suppress(OSError, ValueError):  # gone, or it does not answer at once: we do not wait for it
                self._socket.unwrap()
        self._socket.close()


class EncryptedRegion:
    """A part of a file on its way out through OpenSSL."""

    __slots__ = ("file", "position", "end", "_stream", "_chunk")

    def __init__(self, stream: TlsStream, region: Any):
        self.file = region.file
        self.position = region.position
        self.end = region.position + region.size
        self._stream = stream
        self._chunk = memoryview(b"")

    def send(self) -> bool:
        """True when all is sent. Raises BlockingIOError."""
        if not self._chunk:
            self._chunk = memoryview(self.file.pread(min(REGION_BYTES, self.end - self.position), self.position))
            if not self._chunk:
                raise file_ends(self.file)
        sent = self._stream._send(self._chunk, False)
        self._chunk = self._chunk[sent:]
        self.position += sent
        return self.position == self.end
