"""Compares pairs of thumbnails that may show the same photo: aligns them, then measures all regions.

The second thumbnail is treated as a window of the first, perhaps mirrored, brighter or darker. A few Gauss-Newton
steps (Lucas and Kanade, 1981; scale and shift along each axis, gain and bias) locate that window to a fraction of a
pixel. The result is the correlation and the largest difference of a small region. Two frames of one camera agree
almost everywhere, but a region where a car has moved differs. `near_duplicates.py` sets the thresholds.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from natix_hf.photos.perceptual_hashes import SIZE, window

STEPS = 8
BLOCK = 8  # side in pixels of the regions that are compared
BLUR = 1.0  # standard deviation in pixels; without a blur, resampling alone causes differences at sharp edges
DARK, BRIGHT = 6, 249  # grey levels outside this range may be clipped, so they are ignored


def flat(thumbnails: np.ndarray) -> np.ndarray:
    """Whether each thumbnail has too little contrast to tell photos apart (night, fog, a blank wall), `(n,)`.

    Args:
        thumbnails: `(n, SIZE, SIZE)` uint8.
    """
    blocks = thumbnails.reshape(len(thumbnails), SIZE // 4, 4, SIZE // 4, 4).mean(axis=(2, 4), dtype=np.float32)
    return blocks.std(axis=(1, 2)) < 4


def _blocks(values: np.ndarray) -> np.ndarray:
    """Sums over blocks of `BLOCK` x `BLOCK` pixels: `(n, SIZE, SIZE)` to `(n, blocks)`."""
    side = SIZE // BLOCK
    return values.reshape(len(values), side, BLOCK, side, BLOCK).sum(axis=(2, 4)).reshape(len(values), -1)


def _sample(photos: np.ndarray, down: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample photos bilinearly at `(n, SIZE)` positions down and across; also return which points are inside."""
    photo = np.arange(len(photos))[:, None]

    def along(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        low = np.clip(np.floor(at), 0, SIZE - 2).astype(np.int64)
        fraction = np.clip(at - low, 0, 1).astype(np.float32)[:, :, None]
        below = values[photo, low]  # indexing whole rows is several times as fast as indexing pixels
        return below + fraction * (values[photo, low + 1] - below)

    values = along(along(photos, down).transpose(0, 2, 1), across).transpose(0, 2, 1)
    inside = [(at > -0.75) & (at < SIZE - 0.25) for at in (down, across)]
    return values, inside[0][:, :, None] & inside[1][:, None, :]


def compare(first: np.ndarray, second: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Align pairs of thumbnails and compare them.

    Args:
        first: `(n, SIZE, SIZE)` uint8.
        second: `(n, SIZE, SIZE)` uint8; treated as a window of `first`.
        queries: `(n,)` numbers as in `perceptual_hashes.window`, where the alignment starts.

    Returns:
        correlation: `(n,)`, in [0, 1].
        local: `(n,)` largest mean difference of a region, relative to the contrast of the photo.
        cut: `(n,)` largest change of size or position of the window along an axis, in pixels; larger means more is
            cut off.
    """
    first, warp = _starts(first, queries)
    whole, part = (gaussian_filter(one.astype(np.float32), (0, BLUR, BLUR), mode="nearest") for one in (first, second))
    warp, gain, weight, residual = _aligned(whole, part, warp)
    count = np.maximum(weight.sum(axis=(1, 2)), 1)
    part_mean = (part * weight).sum(axis=(1, 2)) / count
    spread = np.sqrt((((part - part_mean[:, None, None]) * weight) ** 2).sum(axis=(1, 2)) / count)
    error = (residual**2).sum(axis=(1, 2)) / count
    correlation = np.sqrt(np.clip(1 - error / np.maximum(spread**2, 1e-6), 0, 1)) * (gain[:, 0, 0] > 0)
    covered = _blocks(weight)
    blocks = _blocks(np.abs(residual)) / np.maximum(covered, 1) * (covered > BLOCK)
    local = blocks.max(axis=1) / np.maximum(spread, 1)
    cut = np.maximum(np.abs(warp[:, 1] - SIZE), np.abs(warp[:, 3] - SIZE))
    cut = np.maximum(cut, np.abs(warp[:, [0, 2]] - (SIZE - 1) / 2).max(axis=1))
    too_little = count < SIZE * SIZE / 2
    return np.where(too_little, 0, correlation), np.where(too_little, np.inf, local), cut


def _starts(first: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photos, mirrored where the query is, and the warp at which the alignment starts, see `_aligned`."""
    starts = [window(int(query)) for query in range(int(queries.max(initial=0)) + 1)]
    mirrored = np.array([start[0] for start in starts])[queries]
    spans = np.array([[*start[1], *start[2]] for start in starts])[queries]  # (n, 4) begin, length down and across
    # A query's window refers to the photo before it is mirrored.
    spans[:, 2] = np.where(mirrored, 1 - spans[:, 2] - spans[:, 3], spans[:, 2])
    warp = np.stack([spans[:, 0] + spans[:, 1] / 2, spans[:, 1], spans[:, 2] + spans[:, 3] / 2, spans[:, 3]], axis=1)
    return np.where(mirrored[:, None, None], first[:, :, ::-1], first), warp * SIZE - np.array([0.5, 0, 0.5, 0])


def _aligned(
    whole: np.ndarray, part: np.ndarray, warp: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Move the windows until they fit.

    Args:
        whole: `(n, SIZE, SIZE)` blurred photos.
        part: `(n, SIZE, SIZE)` blurred photos, each seen as a window of `whole`.
        warp: `(n, 4)`; positions down and across in `whole` are middle + scale * centre, in pixels.

    Returns:
        The warp; the gain `(n, 1, 1)`; which pixels were compared, and the residual, `(n, SIZE, SIZE)` each.
    """
    slopes = np.gradient(whole, axis=(1, 2))
    centre = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    clear = (part > DARK) & (part < BRIGHT)
    for step in range(STEPS + 1):
        down = warp[:, :1] + warp[:, 1:2] * centre
        across = warp[:, 2:3] + warp[:, 3:4] * centre
        values, inside = _sample(whole, down, across)
        weight = (inside & clear & (values > DARK) & (values < BRIGHT)).astype(np.float32)
        gain, bias = _line(values, part, weight)
        if step == STEPS:
            return warp, gain, weight, _toned(values, part, weight)
        residual = (part - gain * values - bias) * weight
        slope_down = _sample(slopes[0], down, across)[0] * gain * weight
        slope_across = _sample(slopes[1], down, across)[0] * gain * weight
        rows = centre.astype(np.float32)[:, None]
        jacobian = np.stack(
            [slope_down, slope_down * rows, slope_across, slope_across * rows.T, values * weight, weight], axis=1
        ).reshape(len(part), 6, -1)
        normal = jacobian @ jacobian.transpose(0, 2, 1) + np.eye(6) * 1e-2
        move = np.linalg.solve(normal, jacobian @ residual.reshape(len(part), -1, 1))[:, :4, 0]
        warp += np.clip(move, -2, 2)


def _toned(values: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Residual of the target after the best cubic tone curve; clipped highlights make the relation non-linear."""
    x = values / 128 - 1
    powers = np.stack([weight, x * weight, x * x * weight, x * x * x * weight], axis=1).reshape(len(x), 4, -1)
    right = powers @ (target * weight).reshape(len(x), -1, 1)
    curve = np.linalg.solve(powers @ powers.transpose(0, 2, 1) + np.eye(4) * 1e-2, right)
    return target * weight - (powers.transpose(0, 2, 1) @ curve).reshape(x.shape).astype(np.float32)


def _line(values: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and bias, `(n, 1, 1)` each, of the weighted least-squares line from values to target."""
    total = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1)
    mean_v = (values * weight).sum(axis=(1, 2), keepdims=True) / total
    mean_t = (target * weight).sum(axis=(1, 2), keepdims=True) / total
    centred = (values - mean_v) * weight
    gain = (centred * (target - mean_t)).sum(axis=(1, 2), keepdims=True)
    gain = gain / np.maximum((centred * centred).sum(axis=(1, 2), keepdims=True), 1e-3)
    return gain, mean_t - gain * mean_v
