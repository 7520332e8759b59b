"""A StreetVision client. It runs as a script in any interpreter and does not need this package.

python client.py MODEL PHOTOS [--seconds 20]

It loads MODEL (a folder or a Hub id) in the same way as the network's clients and classifies the photos in PHOTOS one
by one. It then measures the latency on generated photos of 224 x 224 and 1920 x 1080 pixels, with one request at a
time and with four, and prints one line of JSON.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

SIZES = ((224, 224), (1920, 1080))
AT_ONCE = (1, 4)


def load(model):
    """The pipeline as the network's clients make it."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    return pipeline(
        "image-classification",
        model=AutoModelForImageClassification.from_pretrained(model),
        feature_extractor=AutoImageProcessor.from_pretrained(model, use_fast=True),
        device="cpu",
    )


def versions():
    """Versions of the installed packages that a client needs, without build tags such as `+cpu`."""
    installed = {}
    for name in ("transformers", "torch", "timm"):
        try:
            installed[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def answer(classify, image):
    """The pipeline's output as `{label: score}`, as the network's clients build it."""
    return {entry["label"]: entry["score"] for entry in classify(image)}


def latencies(classify, size, at_once, seconds):
    """Sorted latencies of requests with a JPEG, in seconds."""
    import io
    import random

    from PIL import Image

    noise = random.Random(0)
    small = Image.frombytes("RGB", (64, 36), bytes(noise.randrange(256) for _ in range(64 * 36 * 3)))
    file = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG")

    def request(_):
        begin = time.perf_counter()
        answer(classify, Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
        return time.perf_counter() - begin

    request(0)  # warm-up
    timed, end = [], time.perf_counter() + seconds
    with ThreadPoolExecutor(at_once) as pool:
        while len(timed) < 4 * at_once or (time.perf_counter() < end and len(timed) < 400):
            timed += pool.map(request, range(at_once))
    return sorted(timed)


def main():
    parser = argparse.ArgumentParser(description="A StreetVision client.")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("photos", help="folder of photos, classified in the order of their names")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each latency measurement")
    args = parser.parse_args()
    sys.modules["natix_hf"] = None  # a client does not have it
    import transformers
    from PIL import Image

    transformers.logging.set_verbosity_error()
    try:
        classify = load(args.model)
    except Exception as error:  # usually explained by the versions
        lines = str(error).strip().splitlines() or [""]
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
        raise SystemExit(f"{installed}: {type(error).__name__}: {lines[0]}") from None
    names = sorted(os.listdir(args.photos))
    answers = [answer(classify, Image.open(os.path.join(args.photos, name)).convert("RGB")) for name in names]
    measured = []
    for size in SIZES:
        for at_once in AT_ONCE:
            timed = latencies(classify, size, at_once, args.seconds)
            p50, p99 = (timed[min(len(timed) - 1, int(share * len(timed)))] for share in (0.5, 0.99))
            measured.append(
                {
                    "width": size[0],
                    "height": size[1],
                    "at_once": at_once,
                    "requests": len(timed),
                    "p50": p50,
                    "p99": p99,
                }
            )
    print(json.dumps({"answers": answers, "latency": measured, "versions": versions(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
