"""Usage: python model_path_server.py --model weights.json"""

import argparse
import json
from pathlib import Path

import litserve as ls
from shared_code import describe


class TableAPI(ls.LitAPI):
    def __init__(self, path, greeting="hello", **kwargs):
        super().__init__(**kwargs)
        self.path = path
        self.words = greeting.upper()

    def setup(self, device):
        self.table = json.loads(Path(self.path).read_text())  # relative to where we are started

    def predict(self, request):
        return {"output": describe(self.table[request["input"]]), "greeting": self.words}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    ls.LitServer(TableAPI(args.model), accelerator="cpu").run(port=8000)
