"""What random crops in training cost photos that are scored whole, where objects are smaller than in a crop.

    OMP_NUM_THREADS=1 python tests/bench/crop_mismatch.py --output runs/crops
    python tests/bench/crop_mismatch.py --output runs/crops --count 240 --sizes 224 --seeds 0    # quickly

Touvron et al. (2019, 1906.06423, FixRes) found that RandomResizedCrop enlarges objects in training and so moves the
features on which the head was trained away from those of the test. Here the head is logistic regression on the frozen
features (class token and mean of the patches) of the demo backbone, trained on mirrored and cropped views of generated
streets. A crop keeps at least the share of the area that the row names: 1 is the whole photo, mirrored or not, .75 is
`augment: basic`, .2 is RandomResizedCrop's usual. All see as many views of a photo. The strength of the penalty is
chosen on `val_select`, the temperature is fitted on `val_calib/fit`, figures are those of `val_test`. The seeds are
those of the crops; the photos stay the same. Differences are paired by photo, with intervals over resampled groups.
Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from natix_hf import load_model, load_photos
from natix_hf.decision.temperature import fit_temperature
from natix_hf.inference import augment
from natix_hf.inference.batches import Normalised, client_pixels
from natix_hf.inference.features import pooled, token_parts
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import Geometry
from natix_hf.report.intervals import difference_of_means, group_count
from natix_hf.report.metrics import classification_metrics
from natix_hf.scenes.photos import generate

SHARES = (1.0, 0.75, 0.2)  # least area of a crop
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # C of the logistic regression
PHOTO = (960, 540)
SCORED = {
    "val_select": ("selection", "predictions", None),
    "val_calib": ("policy", "fit calibration", "fit"),
    "val_test": ("final_evaluation", "final figures", None),
}


class Network(NamedTuple):
    """The frozen backbone at one size."""

    model: Any
    processor: Any

    @torch.inference_mode()
    def features(self, pixels: list[torch.Tensor]) -> np.ndarray:
        """`(views, 2 * hidden)` of normalised views `(3, H, W)`."""
        return pooled(token_parts(self.model, torch.stack(pixels), 1), "cls_mean", 1).numpy()


def views_of(photo: Any, network: Network, share: float, seed: int, row_id: str, count: int) -> list[torch.Tensor]:
    """The training views of a photo: `augment: basic` with crops of at least that share of the area."""
    augment.LEAST_AREA = share
    geometry, normalised = Geometry.of(network.processor), Normalised(network.processor)
    options = {"augment": "basic", "geometry": geometry, "seed": seed, "row_id": row_id}
    return [normalised(augment.training_view(photo, epoch=epoch, **options)) for epoch in range(count)]


def judged(train: np.ndarray, labels: np.ndarray, scored: dict[str, np.ndarray], rows: dict[str, Any]) -> np.ndarray:
    """Calibrated logits `(n, 2)` on `val_test` of the head with the strength that is best on `val_select`."""
    heads = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=3000)).fit(train, labels)
        for strength in STRENGTHS
    ]

    def logits(head: Any, name: str) -> np.ndarray:
        return np.outer(head.decision_function(scored[name]), [-0.5, 0.5])

    truth = {name: np.array(one["label"][:]) for name, one in rows.items()}
    losses = [classification_metrics(logits(h, "val_select"), truth["val_select"])["log_loss"] for h in heads]
    best = heads[int(np.argmin(losses))]
    temperature = fit_temperature(logits(best, "val_calib"), truth["val_calib"], np.array(rows["val_calib"]["group"]))
    return logits(best, "val_test") / temperature


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/crops"))
    parser.add_argument("--backbone", default="builtin:demo-backbone")
    parser.add_argument("--count", type=int, default=1000, help="photos")
    parser.add_argument("--sizes", nargs="+", default=["224", "256x448"], help="such as 224 or 256x448")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--views", type=int, default=3, help="of each photo in training")
    args = parser.parse_args()
    photos = generate(args.output / f"photos-{args.count}", args.count, seed=7, size=PHOTO, workers=1)
    splits = load_photos(photos, group_column=["group"], split_ratios=[0.4, 0.1, 0.1, 0.4])
    train = splits.rows("training", step="frozen features")
    rows = {name: splits.rows(role, step=step, part=part) for name, (role, step, part) in SCORED.items()}
    networks = {}
    for size in args.sizes:
        model, processor = load_model(
            args.backbone, splits.label_names, method="probe", image_size=[int(side) for side in size.split("x")]
        )
        networks[size] = Network(model.eval(), processor)
    arms = [(size, share, seed) for size in args.sizes for share in SHARES for seed in args.seeds]
    features: dict[tuple, list[np.ndarray]] = {arm: [] for arm in arms}
    for row in train:
        photo = open_photo(row["image"])
        for size, share, seed in arms:
            views = views_of(photo, networks[size], share, seed, row["id"], args.views)
            features[size, share, seed].append(networks[size].features(views))
    labels, test = np.repeat(train["label"][:], args.views), rows["val_test"]
    found = {}
    for size, network in networks.items():
        scored = {
            name: np.concatenate([network.features([client_pixels(row["image"], network.processor)]) for row in one])
            for name, one in rows.items()
        }
        for share in SHARES:
            found[size, share] = [
                judged(np.concatenate(features[size, share, seed]), labels, scored, rows) for seed in args.seeds
            ]
    truth, groups = np.array(test["label"][:]), np.array(test["group"][:])
    print(
        f"{len(train)} photos to train on, {args.views} views each; val_test: {len(truth)} photos in "
        f"{group_count(groups, len(truth))} groups; seeds of the crops: {' '.join(map(str, args.seeds))}; differences "
        "from 0.75 with 95 % intervals\n"
    )
    print("| size | least area | AUROC | FPR | FNR | NLL | AUROC, difference | NLL, difference |\n" + "|---" * 8 + "|")
    for (size, share), runs in found.items():
        figures = [classification_metrics(one, truth) for one in runs]
        decided = [one.argmax(1) for one in runs]
        cells = [
            f"{np.mean([one['auroc'] for one in figures]):.3f}",
            f"{np.mean([(one == 1)[truth == 0].mean() for one in decided]):.3f}",
            f"{np.mean([(one == 0)[truth == 1].mean() for one in decided]):.3f}",
            f"{np.mean([one['log_loss'] for one in figures]):.3f}",
        ]
        for metric in ("auroc", "log_loss"):
            gap = difference_of_means(runs, found[size, 0.75], truth, groups, metric)
            cells.append("" if share == 0.75 else "{difference:+.3f} ({low:+.3f} to {high:+.3f})".format(**gap))
        print(f"| {size} | {share:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
