"""TLS: a certificate and its key, read again for new connections once their files have changed."""

import logging
import os
import ssl
from pathlib import Path

from server.auth import Refusal
from server.config import ServerSettings

log = logging.getLogger(__name__)

Signature = tuple[tuple[int, int, int], ...]  # of each file: inode, size and time of the last change


class Certificate:
    """The certificate that the server shows. Raises: Refusal when it can't be used."""

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = Path(certificate).expanduser()
        self._key = Path(key).expanduser()
        self._seen = self._signature()
        self._current = self._load()
        self.context = self._load()  # asyncio holds on to this one; each handshake takes the current one instead
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called in every handshake, also in one without a server name."""
        seen = self._signature()
        if seen != self._seen:
            self._seen = seen
            try:
                self._current = self._load()
                log.info("the TLS certificate was read again")
            except Refusal as refusal:
                log.error("the TLS certificate has changed and can't be used; the old one stays: %s", refusal)
        connection.context = self._current

    def _signature(self) -> Signature:
        return tuple(_stat(file) for file in (self._certificate, self._key))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a function for the password OpenSSL would ask the terminal for one.
            context.load_cert_chain(self._certificate, self._key, password=self._locked)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise Refusal(f"[server] tls_key: {self._key} is not the key of {self._certificate}.") from None
            text = f"[server] tls_cert, tls_key: {self._certificate} and {self._key} can't be used"
            raise Refusal(f"{text} ({error.reason or error}); both must be PEM files.") from None
        except OSError as error:
            raise Refusal(f"[server] tls_cert, tls_key: {error.strerror}: {self._missing()}.") from None
        return context

    def _locked(self) -> str:
        raise Refusal(f"[server] tls_key: {self._key} is encrypted; the server needs it without a password.")

    def _missing(self) -> str:
        unread = [str(file) for file in (self._certificate, self._key) if not os.access(file, os.R_OK)]
        return ", ".join(unread) or f"{self._certificate}, {self._key}"


def _stat(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def certificate_of(settings: ServerSettings) -> Certificate | None:
    """The configured certificate, None without one. Raises: Refusal when it can't be used."""
    return Certificate(settings.tls_cert, settings.tls_key) if settings.tls else None
