"""Certificates for tests, made by openssl(1)."""

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """A self-signed certificate for 127.0.0.1 and localhost, and its key, as PEM files."""

    certificate: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        """Return a context that trusts it, and nothing else."""
        return ssl.create_default_context(cafile=self.certificate)

    def server(self) -> ssl.SSLContext:
        """Return a context that shows it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


def certify(folder: Path, name: str = "localhost") -> Certificate:
    """Make a self-signed certificate for a name, and for 127.0.0.1 if that is `localhost`, in a folder."""
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    names = f"subjectAltName=DNS:{name}" + (",IP:127.0.0.1" if name == "localhost" else "")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3"]
    shown = ["-subj", f"/CN={name}", "-addext", names, "-out", str(made.certificate), "-keyout", str(made.key)]
    subprocess.run(["openssl", "req", "-x509", *kind, *shown], check=True, capture_output=True)
    return made
