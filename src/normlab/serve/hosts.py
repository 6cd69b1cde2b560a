"""Who may ask: a browser that has opened this server's own page, by one of the server's names.

Another site could otherwise have its visitors' browsers send requests here: by a form or a script
(then the Origin header names that site), or under its own name, once that leads to this machine
(DNS rebinding: then the Host header has that name).
"""

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from normlab.errors import UsageError

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d*)?", re.IGNORECASE)

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)


def is_everywhere(address: str) -> bool:
    """Whether an address stands for all of the machine's: `0.0.0.0` or `::`."""
    return ipaddress.ip_address(address).is_unspecified


def names_of(host: str, address: str, given: Sequence[str] = ()) -> frozenset[str]:
    """The names under which a server may be asked, in lower case.

    Args:
        host: Where it was told to listen.
        address: The address that it listens on. If it stands for all, the machine's name is one.
        given: Further names: aliases, and the name of a proxy before it.

    Raises:
        UsageError: One of these is no host's name.
    """
    names = {"localhost", host.rstrip(".").lower()}
    for name in given:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"--name {name}: expected a host alone, such as lab.example.org; one with other "
                "letters begins with xn--"
            )
        names.add(name.rstrip(".").lower())
    if is_everywhere(address):
        own = socket.gethostname().lower()
        short = own.partition(".")[0]
        names |= {own, short, f"{short}.local"}
    return frozenset(names)


def is_own(host: str, names: Collection[str]) -> bool:
    """Whether a Host header has one of the names, or an address: nobody can rebind an address."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].strip("[]").rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def is_foreign(origin: str | None, host: str) -> bool:
    """Whether an Origin header, which browsers send with scripts' requests, has another host."""
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:  # it is no address at all
        return True
