# waits 100 ms in a lock that all workers share: all else is brief, so workers do not help
import fcntl
import os
import tempfile
import time

import litserve as ls


class LockedAPI(ls.LitAPI):
    def setup(self, device):
        path = f"{tempfile.gettempdir()}/one-at-a-time-{os.getppid()}.lock"
        self.lock = os.open(path, os.O_RDWR | os.O_CREAT)

    def decode_request(self, request):
        return request["n"]

    def predict(self, n):
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            time.sleep(0.1)
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)
        return n * 2

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    ls.LitServer(LockedAPI(), accelerator="cpu").run(port=8000)
