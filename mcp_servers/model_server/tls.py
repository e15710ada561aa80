"""The certificate with which the HTTP server proves who it is."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from tools.errors import ConfigurationError

logger = logging.getLogger(__name__)


def load_tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what TLS 1.2 and newer is spoken with; None where neither file is given.

    Raises:
        ConfigurationError: one of the files is missing, cannot be read, is no PEM, is protected
            by a password, or is not the other's.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigurationError("TLS needs both files: give --tls-cert and --tls-key")
    for path in (cert, key):
        try:
            path.read_bytes()
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigurationError(
            f"{cert} and {key} are not a certificate and its private key in PEM, without a "
            f"password: {exc}"
        ) from exc
    if key.stat().st_mode & 0o077:
        logger.warning("other users may read %s; `chmod 600` it", key)
    return context


def _refuse_password() -> str:
    raise ValueError("the key is protected by a password")
