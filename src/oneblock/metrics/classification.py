"""Scores of class probabilities p (n, num_classes) against labels y (n,): whether they are right, and whether they are
honest.

With the guess g_i = argmax_k p_ik and its confidence c_i = p_i,g_i

    accuracy             1/n sum_i [g_i = y_i]
    likelihood           -1/n sum_i log p_i,y_i, in nats
    calibration error    sum_m |B_m| / n |acc(B_m) - conf(B_m)|

where B_m holds the i with c_i in ((m - 1) / M, m / M], acc is the accuracy and conf the mean confidence of a bin. Guo
et al., "On Calibration of Modern Neural Networks", section 2, arXiv 1706.04599.
"""

from __future__ import annotations

import torch
from torch import Tensor

# of a row from one: beyond the rounding of a float32 softmax, below that of half precision
_SUM_TOLERANCE = 1e-4


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share in 0..1 of rows of probabilities (n, num_classes) whose largest entry is that of the label int (n,).

    Of equal entries one is taken. Raises ValueError for what ``check_probabilities`` refuses.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    return (probabilities.argmax(1) == labels).double().mean().item()


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of -log p of the labels int (n,) under probabilities (n, num_classes), in nats, >= 0.

    Infinite where a label has probability zero; log num_classes for the uniform guess. Raises ValueError for what
    ``check_probabilities`` refuses.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    # rounding may leave a row of one certain class above one
    return max(0.0, -probabilities.gather(1, labels[:, None]).log().mean().item())


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap in 0..1 between confidence and accuracy of probabilities (n, num_classes) for labels int (n,).

    Guo et al., eq. 3, over ``bins`` bins of equal width; an empty bin weighs nothing. A bin of few samples adds to the
    gap by chance, so compare only values of one n and one number of bins. Raises ValueError for bins < 1 and for what
    ``check_probabilities`` refuses.
    """
    if bins < 1:
        raise ValueError(f"bins={bins} is too small; 1 or more are allowed; use for example 15")
    probabilities, labels = check_probabilities(probabilities, labels)
    confidence, guess = probabilities.max(1)
    inner = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)[1:-1]
    bin_index = torch.bucketize(confidence, inner)  # lower < confidence <= upper
    # |B_m| (acc - conf) is the sum over the bin of [right] - confidence
    gaps = torch.bincount(bin_index, weights=(guess == labels).double() - confidence, minlength=bins)
    return gaps.abs().sum().item() / len(labels)


def check_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities as float64 (n, num_classes) and the labels as int64 (n,) on their device.

    Raises ValueError unless both have these shapes with n and num_classes at least 1, labels are whole numbers in
    0..num_classes - 1, and each row sums to one without a negative entry.
    """
    values = check_rows(probabilities)
    return values, _check_labels(labels, *values.shape).to(values.device)


def check_rows(probabilities: Tensor) -> Tensor:
    """The probabilities as float64 (n, num_classes).

    Raises ValueError unless they have this shape with n and num_classes at least 1, and each row sums to one without a
    negative entry.
    """
    if not probabilities.is_floating_point() or probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(
            f"probabilities has dtype {probabilities.dtype} and shape {tuple(probabilities.shape)}; floating point "
            "(n, num_classes) with at least one row is allowed: pass one row per image"
        )
    values = probabilities.double()
    wrong = ~((values.sum(1) - 1).abs() <= _SUM_TOLERANCE) | (values < 0).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"probabilities row {row} sums to {values[row].sum().item():g} with smallest entry "
            f"{values[row].min().item():g}; entries of 0 or more that sum to 1 are allowed: apply softmax in float32"
        )
    return values


def _check_labels(labels: Tensor, count: int, num_classes: int) -> Tensor:
    """The labels as int64 (count,)."""
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (count,):
        raise ValueError(
            f"labels has dtype {labels.dtype} and shape {tuple(labels.shape)}; whole numbers of shape ({count},) are "
            "allowed: pass one label per row of the probabilities"
        )
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(
            f"label {int(outside[0])} is not a class: the probabilities have {num_classes} classes; "
            f"0..{num_classes - 1} is allowed: score the labels of the data that the network was trained on"
        )
    return labels.long()
