"""The listener for agents on other machines: TLS, and nothing else.

Rules
1. What is not TLS 1.2 or newer is not spoken to; who has no handle is not answered.
2. The key is the gateway's own: a file that others may read is refused.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from holdfast.errors import Misuse
from holdfast.gateway.settings import Remote

WHERE = "gateway.remote"


def elsewhere(remote: Remote) -> socket.socket:
    """A socket that listens for agents elsewhere. Raises Misuse."""
    host, _, port = remote.listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(found[4][:2], family=found[0], reuse_port=False)
    except OSError as error:
        what = f"nobody can listen at `{remote.listen}`: {error.strerror}"
        raise Misuse(what, where=f"{WHERE}.listen", fix="name an address of this machine and a free port") from None
    listener.setblocking(False)
    return listener


def address_of(remote: Remote, listener: socket.socket) -> str:
    """Where it listens, as a program is told: `https://HOST:PORT`."""
    if remote.url is not None:
        return remote.url
    host, _, _ = remote.listen.rpartition(":")
    return f"https://{host}:{listener.getsockname()[1]}"


def tls_of(remote: Remote, folder: Path) -> ssl.SSLContext:
    """The TLS of this listener. Raises Misuse for a certificate or a key that cannot be used."""
    certificate, key = folder / remote.certificate, folder / remote.key
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if key.stat().st_mode & 0o077:
            raise Misuse("others may read the key", where=str(key), fix=f"chmod 600 {key}")
        tls.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        what = f"the certificate and its key are not a pair of PEM files: {error.reason or error}"
        raise Misuse(what, where=str(certificate), fix="name the chain and the key that belongs to it") from None
    except OSError as error:
        missing = next((each for each in (certificate, key) if not each.is_file()), certificate)
        raise Misuse(f"it cannot be read: {error.strerror}", where=str(missing), fix=f"mend it in [{WHERE}]") from None
    return tls
