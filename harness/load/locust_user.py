"""Locust's user, for load from many machines: posts the same bodies, checks the answers alike."""

import pickle
import random
import subprocess
from collections.abc import Callable, Mapping

from locust import FastHttpUser, constant, task

from harness.process.module_command import module_command, module_environment

Check = Callable[[bytes, int], tuple[bool, float | None]]


class BodiesUser(FastHttpUser):
    """A closed loop of one connection; the next request follows the answer to the last.

    Attributes: as a Job's (harness.load.job).
    """

    abstract = True
    wait_time = constant(0)
    path: str
    bodies: list[bytes]
    check: Check | None
    headers: Mapping[str, str]

    @task
    def post(self) -> None:
        """One request; an answer other than a correct 200 counts as a failure."""
        index = random.randrange(len(self.bodies))
        request = {"data": self.bodies[index], "headers": dict(self.headers), "name": self.path}
        with self.client.post(self.path, **request, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif self.check and not self.check(answer.content, index)[0]:
                answer.failure("wrong answer")


def user_of(
    path: str, bodies: list[bytes], check: Check | None, headers: Mapping[str, str]
) -> type[BodiesUser]:
    """A user class that a locustfile can name as its own."""
    sent = {"Content-Type": "application/json"} | dict(headers)
    judged = staticmethod(check) if check else None
    attributes = {"path": path, "bodies": bodies, "check": judged, "headers": sent}
    return type("BodiesUser", (BodiesUser,), attributes | {"abstract": False})


def user_of_folder(package: str) -> type[BodiesUser]:
    """The user class of a benchmark folder: its requests with its default options, its checks."""
    command = [*module_command("harness.folder_requests"), package]
    made = subprocess.run(command, env=module_environment(), stdout=subprocess.PIPE, check=True)
    return user_of(*pickle.loads(made.stdout))
