"""A certificate authority for tests, made anew each time: nothing is trusted that a test did not make itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files (the authority, a server's chain and key for localhost and 127.0.0.1), and a server's context."""

    authority: Path
    chain: Path
    key: Path
    server: ssl.SSLContext


def make(folder: Path) -> Certificates:
    """Writes a fresh authority and a server certificate into `folder`. Takes about 0.1 s."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    files = Certificates(folder / "ca.pem", folder / "chain.pem", folder / "key.pem", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    authority.cert_pem.write_to_path(str(files.authority))
    issued.private_key_pem.write_to_path(str(files.key))
    for index, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(files.chain), append=index > 0)
    issued.configure_cert(files.server)
    return files
