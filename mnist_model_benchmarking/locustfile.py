"""Load from many machines, with Locust: the benchmark's own images, its answers checked alike.

locust -f mnist_model_benchmarking/locustfile.py --host http://server:8000
"""

import contextlib

from harness.load.locust_user import user_of
from mnist_model_benchmarking.benchmark import parser
from mnist_model_benchmarking.suite import suite

with contextlib.closing(suite(parser().parse_args([]))) as made:
    ImageUser = user_of(made.path, made.bodies, made.check, made.headers)
