"""A StreetVision client, run by its path in any interpreter: it knows nothing of this package.

python streetvision_client.py MODEL PHOTOS [--seconds 20]

Loads MODEL (a folder or a Hub id) in the form of call that the network's clients use, answers the photos in PHOTOS one
by one, then drawn ones of 224 x 224 and 1920 x 1080 pixels with one and with four requests at a time, and prints one
line of JSON.
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
    """The form of call of the network's clients."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    return pipeline(
        "image-classification",
        model=AutoModelForImageClassification.from_pretrained(model),
        feature_extractor=AutoImageProcessor.from_pretrained(model, use_fast=True),
        device="cpu",
    )


def versions():
    """Versions of what a client needs, as far as it is installed; torch's without the name of its build."""
    found = {}
    for name in ("transformers", "torch", "timm"):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def answer(classify, image):
    """`{label: score}` as the client makes it of the pipeline's answer."""
    return {entry["label"]: entry["score"] for entry in classify(image)}


def latencies(classify, size, at_once, seconds):
    """Seconds from request to answer, sorted, of requests that carry a JPEG."""
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

    request(0)  # the first one warms up
    found, end = [], time.perf_counter() + seconds
    with ThreadPoolExecutor(at_once) as pool:
        while len(found) < 4 * at_once or (time.perf_counter() < end and len(found) < 400):
            found += pool.map(request, range(at_once))
    return sorted(found)


def main():
    parser = argparse.ArgumentParser(description="A StreetVision client.")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("photos", help="folder of photos, answered in the order of their names")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    given = parser.parse_args()
    sys.modules["natix_hf"] = None  # a client does not have it
    import transformers
    from PIL import Image

    transformers.logging.set_verbosity_error()
    try:
        classify = load(given.model)
    except Exception as error:  # the version is what explains it
        lines = str(error).strip().splitlines() or [""]
        told = ", ".join(f"{name} {version}" for name, version in versions().items())
        raise SystemExit(f"{told}: {type(error).__name__}: {lines[0]}") from None
    names = sorted(os.listdir(given.photos))
    answers = [answer(classify, Image.open(os.path.join(given.photos, name)).convert("RGB")) for name in names]
    measured = []
    for size in SIZES:
        for at_once in AT_ONCE:
            found = latencies(classify, size, at_once, given.seconds)
            p50, p99 = (found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.99))
            measured.append(
                {
                    "width": size[0],
                    "height": size[1],
                    "at_once": at_once,
                    "requests": len(found),
                    "p50": p50,
                    "p99": p99,
                }
            )
    print(json.dumps({"answers": answers, "latency": measured, "versions": versions(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
