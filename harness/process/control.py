"""Servers' URLs, and requests beside the load: no proxy here, the key if there is one."""

import ipaddress
import os
from argparse import ArgumentTypeError
from urllib.parse import urlsplit

import requests

API_KEY = "LIT_SERVER_API_KEY"  # LitServe's own name: what servers are started with, clients send
REFUSED_STATUSES = {401, 403}


def with_scheme(url: str) -> str:
    """The URL; http:// is assumed where it has no scheme."""
    return url if "://" in url else f"http://{url}"


def plain_http_url(url: str) -> str:
    """A URL that the load generator can speak to; ArgumentTypeError with one sentence if not."""
    url = with_scheme(url)
    scheme, rest = url.split("://", 1)
    if scheme.lower() != "http":
        reason = "only http:// is measured; name the server behind what ends the encryption"
        raise ArgumentTypeError(f"{scheme}:// is not spoken: {reason}")
    try:
        target = urlsplit(f"http://{rest}")
        if target.hostname and target.port != 0:  # reading a port that is none raises, too
            return target.geturl()
    except ValueError:
        pass
    raise ArgumentTypeError(f"{url} names no host and port")


def control_session(*, proxies: bool = False) -> requests.Session:
    """A session for requests that are not load.

    It ignores the environment's proxies, as the load generator does: what answers is what is
    measured. With `proxies` it uses them, as a client of a server elsewhere may have to.
    """
    session = requests.Session()
    session.trust_env = proxies
    session.headers.update(key_header())
    return session


def key_header() -> dict[str, str]:
    """The header that carries the environment's key; empty without one.

    Raises OSError if it holds what no header can carry.
    """
    key = os.environ.get(API_KEY, "")
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise OSError(f"{API_KEY} holds a character that no HTTP header can carry")
    return {"X-API-Key": key} if key else {}


def key_refusal(url: str) -> str:
    """What to do about a server that answers with one of REFUSED_STATUSES."""
    wrong = f"{API_KEY} holds another" if os.environ.get(API_KEY) else f"set {API_KEY}"
    return f"{url} wants a key: {wrong}"


def client_session(url: str) -> requests.Session:
    """A session for one request to a server; no proxy stands before a server on this machine."""
    return control_session(proxies=not on_this_machine(url))


def on_this_machine(url: str) -> bool:
    """Whether a URL names a loopback address, or "localhost"."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
