"""Requests beside the load, to a server's /health, /info and /stats: never through a proxy here."""

import ipaddress
from urllib.parse import urlsplit

import requests


def control_session(*, proxies: bool = False) -> requests.Session:
    """A session for requests that are not load.

    It ignores the environment's proxies, as the load generator does: what answers is what is
    measured. With `proxies` it uses them, as a client of a server elsewhere may have to.
    """
    session = requests.Session()
    session.trust_env = proxies
    return session


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
