"""A client of a published model. It runs as a script in any interpreter and does not need this package.

python client.py MODEL PHOTOS OUT.npz [--import_package FOLDER | --without_package] [--trust_remote_code]

It loads MODEL (a folder or a Hub id) as users do, with `pipeline("image-classification", ...)`, or an exported graph
with a `session.py` in the same folder as this file, and classifies the photos in PHOTOS. It writes logits,
probabilities and pixels to OUT.npz and prints everything else as one line of JSON.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time

BATCH = 8
PACKAGES = ("transformers", "torch", "torchvision", "timm", "peft", "onnxruntime", "natix_hf")


def through_pipeline(model, paths, trust_remote_code):
    """Labels, pixels `(n, [views,] 3, H, W)`, logits and probabilities `(n, classes)`, seconds, and the model's class.

    Seconds: wall time of loading, wall time of classifying, CPU time (all threads) of classifying.
    """
    import torch
    from transformers import pipeline

    begin = time.perf_counter()
    classify = pipeline("image-classification", model=model, trust_remote_code=trust_remote_code, device="cpu")
    loaded = time.perf_counter()
    config = classify.model.config
    labels = [config.id2label[i] for i in range(config.num_labels)]
    pixels = torch.cat([classify.preprocess(path)["pixel_values"] for path in paths])
    with torch.inference_mode():
        logits = [classify.model(pixel_values=part).logits for part in pixels.split(BATCH)]
    asked, spent = time.perf_counter(), time.process_time()
    answers = classify(paths, top_k=None, batch_size=BATCH)
    seconds = (loaded - begin, time.perf_counter() - asked, time.process_time() - spent)
    scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
    probabilities = [[row[label] for label in labels] for row in scores]
    name = type(classify.model).__name__
    return labels, pixels.numpy(), torch.cat(logits).float().numpy(), probabilities, seconds, name


def through_session(model, paths, reader):
    """Like `through_pipeline`, for an exported graph that `reader` runs."""
    import numpy as np
    from huggingface_hub import snapshot_download
    from session import session
    from transformers import AutoImageProcessor
    from transformers.image_utils import load_image

    begin = time.perf_counter()
    model = model if os.path.isdir(model) else snapshot_download(model)
    answer = session(model)
    if os.path.isfile(f"{model}/views.py"):  # the graph takes tiles, which no transformers class makes
        sys.path.insert(0, model)
        prepare = importlib.import_module("views").pixel_values
    else:
        processor = AutoImageProcessor.from_pretrained(model)

        def prepare(image):
            return processor(images=image, return_tensors="np")["pixel_values"]

    with open(f"{model}/labels.json", encoding="utf-8") as file:
        labels = json.load(file)
    loaded, spent = time.perf_counter(), time.process_time()
    pixels, logits = [], []
    for start in range(0, len(paths), BATCH):
        images = [load_image(path) for path in paths[start : start + BATCH]]
        batch = [prepare(image) for image in images]
        pixels.append(np.concatenate(batch).astype(np.float32))
        logits.append(answer(pixels[-1]))
    seconds = (loaded - begin, time.perf_counter() - loaded, time.process_time() - spent)
    pixels, logits = np.concatenate(pixels), np.concatenate(logits)
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return labels, pixels, logits, probabilities, seconds, reader


def versions():
    """Versions of Python and of those packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def main():
    parser = argparse.ArgumentParser(description="A client of a published model.")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("photos", help="folder of photos, classified in the order of their names")
    parser.add_argument("out", help="file for the arrays, .npz")
    parser.add_argument("--import_package", help="import natix_hf first, from this folder")
    parser.add_argument("--without_package", action="store_true", help="make natix_hf impossible to import")
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument("--session", metavar="READER", help="name of the library in session.py that runs the graph")
    args = parser.parse_args()
    if args.without_package:
        sys.modules["natix_hf"] = None  # importing it raises ModuleNotFoundError, installed or not
    if args.import_package:
        sys.path.insert(0, args.import_package)
        importlib.import_module("natix_hf")
    begin = time.perf_counter()
    import numpy as np
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    imported = time.perf_counter() - begin
    if os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    paths = [os.path.join(args.photos, name) for name in sorted(os.listdir(args.photos))]
    if args.session:
        answers = through_session(args.model, paths, args.session)
    else:
        answers = through_pipeline(args.model, paths, args.trust_remote_code)
    labels, pixels, logits, probabilities, (load, classify, cpu), name = answers
    np.savez(args.out, pixels=pixels, logits=logits, probabilities=np.asarray(probabilities))
    report = {
        "class": name,
        "versions": {n: v for n, v in versions().items() if n != "natix_hf" or not args.without_package},
        "import_seconds": round(imported, 3),
        "load_seconds": round(load, 3),
        "photos_per_second": round(len(paths) / classify, 3),
        "photos_per_cpu_second": round(len(paths) / cpu, 3),
    }
    print(json.dumps([labels, report]))


if __name__ == "__main__":
    main()
