"""Load from many machines, with Locust: the benchmark's own images, its answers checked alike.

locust -f mnist_model_benchmarking/locustfile.py --host http://server:8000
"""

from harness.load.locust_user import user_of_folder

ImageUser = user_of_folder("mnist_model_benchmarking")
