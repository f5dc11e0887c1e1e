"""Load from many machines, with Locust: the benchmark's own chats, its answers checked alike.

locust -f llm_model_benchmarking/locustfile.py --host http://server:8000
"""

from harness.load.locust_user import user_of_folder

ChatUser = user_of_folder("llm_model_benchmarking")
