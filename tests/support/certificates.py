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


def certify(folder: Path, name: str = "localhost", *, days: int = 3, alternative: bool = True) -> Certificate:
    """Make a self-signed certificate for a name, and for 127.0.0.1 if that is `localhost`, in a folder.

    It is good for `days`; with -1 it has expired. Without `alternative` it has the name only as its subject's.
    """
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    request, extensions = folder / "request.pem", folder / "extensions"
    names = f"subjectAltName=DNS:{name}" + (",IP:127.0.0.1" if name == "localhost" else "")
    extensions.write_text(names + "\n" if alternative else "")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(made.key)]
    signed = ["-signkey", str(made.key), "-days", str(days), "-extfile", str(extensions)]
    for command in (
        ["req", *key, "-subj", f"/CN={name}", "-out", str(request)],
        ["x509", "-req", "-in", str(request), *signed, "-out", str(made.certificate)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return made
