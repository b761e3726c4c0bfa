"""Why an upstream could not be reached: the system's reason, and TLS's, in words for clients and operators.

The words hold no address and no name of a host: an upstream may be inside a network that its clients must not know.
"""

import errno
import os
import socket
import ssl

# The gateway's own failures: it has no descriptor, no memory or no local port left for a socket. The upstream, which
# knows nothing of that, must not pay for it.
OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
NO_THREAD = "can't start new thread"  # Python's words, if there is none for a look-up of a name
NAMES_OF_LOOKUP = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}
# OpenSSL's own words for these name the host (X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH).
NOT_ITS_NAME = {62: "it is not valid for this host name", 64: "it is not valid for this address"}


def reason_of(error: BaseException | None) -> str | None:
    """Return the reason, for example "connection refused (ECONNREFUSED)", or None if there is none to tell."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NOT_ITS_NAME.get(error.verify_code, error.verify_message)
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None)  # only those that OpenSSL has raised have one
        return reason.replace("_", " ").lower() if reason else None
    if isinstance(error, RuntimeError) and is_own(error):
        return NO_THREAD
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        return None
    if isinstance(error, socket.gaierror):
        name, words = NAMES_OF_LOOKUP.get(number), error.strerror or "unknown"
    else:
        name, words = errno.errorcode.get(number), os.strerror(number)
    return f"{words[:1].lower()}{words[1:]} ({name or number})"


def is_own(error: BaseException | None) -> bool:
    """Whether the gateway itself has failed, not the upstream."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_MEMORY
    if isinstance(error, RuntimeError):
        return str(error) == NO_THREAD
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno in OWN
