"""Send one image to a running server and print the prediction.

python mnist_model_benchmarking/client.py --digit 7
python mnist_model_benchmarking/client.py photo.png --url http://127.0.0.1:8000
"""

import argparse
import base64
import sys
from pathlib import Path

import requests

from harness.process.control import client_session, with_scheme
from mnist_model_benchmarking.digits import sample_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "image", nargs="?", type=Path, help="a PNG or JPEG file that shows one digit"
    )
    source.add_argument(
        "--digit", type=int, choices=range(10), help="send a bundled drawing of this digit instead"
    )
    parser.add_argument(
        "--url",
        type=with_scheme,
        default="http://127.0.0.1:8000",
        help="the server (default: %(default)s)",
    )
    options = parser.parse_args()
    try:
        file = options.image
        content = file.read_bytes() if file else sample_files(10)[options.digit][0]
        request = {"image": base64.b64encode(content).decode()}
        url = f"{options.url.rstrip('/')}/predict"
        reply = client_session(url).post(url, json=request, timeout=30)
    except (
        OSError,
        requests.RequestException,
    ) as error:  # an unreadable file, or nobody at the URL
        sys.exit(f"nothing predicted: {error}")
    if not reply.ok:
        sys.exit(f"the server answered {reply.status_code}: {reply.text}")
    prediction = reply.json()["predictions"][0]
    print(f"digit {prediction['digit']} with probability {prediction['probability']:.4f}")


if __name__ == "__main__":
    main()
