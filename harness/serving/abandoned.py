"""Requests whose clients have left: HTTP processes note them, workers pass over them."""

import multiprocessing
from ctypes import c_longlong
from typing import Any

CLIENT_LEFT = 499  # nginx's status for an answer that nobody will read
SLOTS = 4096  # more than are inside a server at once
UNUSED = 1 << 60  # set in every number, so that no request has that of an empty slot


def number_of(uid: Any) -> int:
    """60 of the random bits of the UUID, or its text, that LitServe gives a request."""
    return int(str(uid).replace("-", "")[-15:], 16) | UNUSED


class Abandoned:
    """A set of requests in memory shared by a server's processes, the newest of each slot.

    One that is forgotten is served for nobody, and nothing worse.
    """

    def __init__(self) -> None:
        self.slots = multiprocessing.get_context("spawn").RawArray(c_longlong, SLOTS)

    def add(self, uid: Any) -> None:
        number = number_of(uid)
        self.slots[number % SLOTS] = number

    def __contains__(self, uid: Any) -> bool:
        number = number_of(uid)
        return self.slots[number % SLOTS] == number
