"""Requests whose clients have left: HTTP processes note them, workers pass over them."""

import multiprocessing
from ctypes import c_longlong
from uuid import UUID

CLIENT_LEFT = 499  # nginx's status for an answer that nobody will read
SLOTS = 4096  # more than are inside a server at once
NODE = 1 << 48  # what lies below it is a UUID's node: its text after the last hyphen
UNUSED = 1 << 60  # set in every number, so that no request has that of an empty slot


def number_of(uid: UUID | str) -> int:
    """The last 48 bits of the UUID, or its text, that LitServe gives a request; all are random."""
    return UNUSED | (uid.int % NODE if isinstance(uid, UUID) else int(uid[-12:], 16))


class Abandoned:
    """A set of requests in memory shared by a server's processes, the newest of each slot.

    One that is forgotten is served for nobody, and nothing worse.
    """

    def __init__(self) -> None:
        self.slots = multiprocessing.get_context("spawn").RawArray(c_longlong, SLOTS)

    def add(self, uid: UUID | str) -> None:
        number = number_of(uid)
        self.slots[number % SLOTS] = number

    def __contains__(self, uid: UUID | str) -> bool:
        number = number_of(uid)
        return self.slots[number % SLOTS] == number
