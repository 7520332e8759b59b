"""A temperature and a bias per class (Guo et al., 2017).

With two classes both share one temperature (Platt scaling): two temperatures would change the order of the photos.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from natix_hf.decision.calibrators.calibrator import Calibrator, Fitted

if TYPE_CHECKING:
    import numpy as np

# Penalty on the bias, in independent rows. It is weak, since class shares often differ from those in training. The
# penalty on the temperatures comes from their prior.
BIAS_PULL = 1.0


def vector_objective(
    scale: np.ndarray, bias: np.ndarray, logits: np.ndarray, labels: np.ndarray, alike: float = 1.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """The convex objective of `vector`: summed NLL of `scale * logits + bias`, one imaginary mistake, and penalties.

    The imaginary mistake is the one of `decision.temperature`. The penalties are `alike / 2` times
    `(scale - 1)^2 / PRIOR_SD^2 + BIAS_PULL bias^2`, summed over classes; scale 1 is the temperature that the logits
    have already been divided by.

    Args:
        scale, bias: `(classes,)`.
        logits: `(n, classes)`, already divided by one temperature.
        labels: `(n,)`.
        alike: the `design_effect` of the rows.

    Returns:
        The objective and its derivatives by `scale` and `bias`.
    """
    import numpy as np
    import scipy.special

    from natix_hf.decision.temperature import PRIOR_SD

    scale_pull = 1 / PRIOR_SD**2
    n, classes = logits.shape
    rows = np.arange(n)
    z = scale * logits + bias
    true = np.zeros((n, classes))
    true[rows, labels] = 1.0
    # Real rows have weight 1; the imaginary mistake adds 1/n to each row, spread over its wrong classes.
    targets = true + (1 - true) / (classes - 1) / n
    normaliser = scipy.special.logsumexp(z, axis=1)
    value = (1 + 1 / n) * normaliser.sum() - (targets * z).sum()
    value += alike / 2 * (scale_pull * ((scale - 1) ** 2).sum() + BIAS_PULL * (bias**2).sum())
    residual = (1 + 1 / n) * np.exp(z - normaliser[:, None]) - targets
    by_scale = (residual * logits).sum(axis=0) + alike * scale_pull * (scale - 1)
    return float(value), by_scale, residual.sum(axis=0) + alike * BIAS_PULL * bias


def fit(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Fitted:
    """Fit temperature and bias per class by penalised maximum likelihood, starting from one temperature."""
    import numpy as np
    import scipy.optimize

    from natix_hf.decision.temperature import BOUNDS, design_effect, fit_temperature

    temperature = fit_temperature(logits, labels, groups)
    classes = logits.shape[1]
    scaled = logits / temperature
    shared = classes == 2
    alike = design_effect(logits, labels, groups)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.repeat(x[:1], classes) if shared else x[:classes]
        value, by_scale, by_bias = vector_objective(scale, x[-classes:], scaled, labels, alike)
        return value, np.r_[by_scale.sum() if shared else by_scale, by_bias]

    scales = 1 if shared else classes
    # The temperature of each class stays within the bounds of the single one.
    bounds = [(temperature / BOUNDS[1], temperature / BOUNDS[0])] * scales + [(None, None)] * classes
    start = np.r_[np.ones(scales), np.zeros(classes)]
    options = {"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9}
    best = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    scale = np.repeat(best[:1], classes) if shared else best[:classes]
    return {"temperature": np.clip(temperature / scale, *BOUNDS), "calibrator_bias": best[-classes:]}


VECTOR = Calibrator(
    fit,
    description="a temperature and a bias per class",
    least_rows=100,
    least_of_a_class=10,
    step=0.7,
    again="vector",
)
