"""The formulas of the normalizations, as plain sums over their axes, for float64."""

import torch
import torch.nn.functional as F

EPSILON = 1e-5


def parameters(layer):
    """A layer's parameters, by the names used in the formulas."""
    return {name.rpartition(".")[2]: values for name, values in layer.named_parameters()}


def standardize(x, axes):
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPSILON)


def in_groups(x, groups):
    """N × groups × members × H × W. Default: the largest divisor of C that is at most 4."""
    if groups is None:
        groups = max(g for g in (1, 2, 3, 4) if x.shape[1] % g == 0)
    return x.unflatten(1, (groups, -1))


def by_group(x, groups):
    return standardize(in_groups(x, groups), (2, 3, 4)).reshape(x.shape)


def group_deviation(x, groups):
    cells = in_groups(x, groups)
    mean = cells.mean((2, 3, 4), keepdim=True)
    variance = ((cells - mean) ** 2).mean((2, 3, 4), keepdim=True)
    return torch.sqrt(variance + EPSILON).expand_as(cells).reshape(x.shape)


def by_part(x, images):
    return torch.cat([standardize(part, (0, 2, 3)) for part in x.split(images or 32)])


def local_response(a):
    """The sum of Krizhevsky et al., channel by channel."""
    squares = F.pad(a**2, (0, 0, 0, 0, 2, 2))
    total = sum(squares[:, k : k + a.shape[1]] for k in range(5))
    return a / (2 + 1e-4 * total) ** 0.75


def per_channel(p):
    return p[:, None, None]


def affine(x, p):
    return x * per_channel(p["weight"]) + per_channel(p["bias"])


def extended(x):
    """A mean for each channel and one variance of the deviations from them."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    return centred / torch.sqrt((centred**2).mean() + EPSILON)


def by_deviation(x, p, *, activate):
    """EvoNorm-B0: the deviation over the batch, or v x + the deviation in the image if larger."""

    def deviation(axes):
        mean = x.mean(axes, keepdim=True)
        return torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + EPSILON)

    divisor = deviation((0, 2, 3))
    if activate:
        divisor = torch.maximum(divisor, per_channel(p["slope"]) * x + deviation((2, 3)))
    return affine(x / divisor, p)


def by_proxy(y, p, activation=torch.relu):
    """Proxy normalization of f(y): less the mean, and over the deviation, of f(w z + b).

    The proxy z has mean β and deviation 1 + γ.
    """
    n = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    names = ("weight", "bias", "proxy_mean", "proxy_scale")
    proxy = torch.stack(
        [
            activation(w * (beta + (1 + gamma) * n) + b)
            for w, b, beta, gamma in zip(*(p[name] for name in names), strict=True)
        ]
    )
    mean = proxy.mean(1)
    variance = ((proxy - mean[:, None]) ** 2).mean(1)
    return (activation(y) - per_channel(mean)) / per_channel(torch.sqrt(variance + 0.03))


def root_mean_square(x, axes, epsilon):
    return torch.sqrt((x**2).mean(axes, keepdim=True) + epsilon)


# From the input, the layer's parameters by name and the number after `=` to the layer's output in
# training, without an activation.
FORMULAS = {
    "none": lambda x, p, _: affine(x, p),
    "lrn": lambda x, p, _: local_response(affine(x, p)),
    "bn": lambda x, p, _: affine(standardize(x, (0, 2, 3)), p),
    "ghost-bn": lambda x, p, images: affine(by_part(x, images), p),
    "brn": lambda x, p, _: affine(standardize(x, (0, 2, 3)), p),  # in its first steps
    "sync-bn": lambda x, p, _: affine(standardize(x, (0, 2, 3)), p),  # with one process
    "ebn": lambda x, p, _: affine(extended(x), p),
    "evonorm-b0": lambda x, p, _: by_deviation(x, p, activate=False),
    "gn": lambda x, p, groups: affine(by_group(x, groups), p),
    "gn-ws": lambda x, p, groups: affine(by_group(x, groups), p),  # the rest is in the convolutions
    "ln": lambda x, p, _: affine(standardize(x, (1, 2, 3)), p),
    "ln-full": lambda x, p, _: standardize(x, (1, 2, 3)) * p["weight"] + p["bias"],
    "ln-channel": lambda x, p, _: affine(standardize(x, (1,)), p),
    "in": lambda x, p, _: affine(standardize(x, (2, 3)), p),
    "rms": lambda x, p, _: x / root_mean_square(x, (1, 2, 3), EPSILON) * per_channel(p["weight"]),
    "frn": lambda x, p, _: affine(x / root_mean_square(x, (2, 3), 1e-6), p),
    "evonorm-s0": lambda x, p, groups: affine(x / group_deviation(x, groups), p),
    "proxy-gn": lambda x, p, groups: affine(by_group(x, groups), p),
    "proxy-ln": lambda x, p, _: affine(standardize(x, (1, 2, 3)), p),
    "sws": lambda x, p, _: affine(x, p),  # the rest is in the convolutions
    "dyt": lambda x, p, _: affine(torch.tanh(p["slope"] * x), p),
}
# Those that include an activation: one other than a ReLU, or one before the normalization.
ACTIVATED = {
    "lrn": lambda x, p, _: local_response(affine(x, p).relu()),
    "frn": lambda x, p, _: torch.maximum(FORMULAS["frn"](x, p, None), per_channel(p["threshold"])),
    "evonorm-s0": lambda x, p, groups: affine(
        x * torch.sigmoid(x * per_channel(p["slope"])) / group_deviation(x, groups), p
    ),
    "evonorm-b0": lambda x, p, _: by_deviation(x, p, activate=True),
    "proxy-gn": lambda x, p, groups: by_proxy(FORMULAS["proxy-gn"](x, p, groups), p),
    "proxy-ln": lambda x, p, _: by_proxy(FORMULAS["proxy-ln"](x, p, None), p),
}


def normalized(text, x, p, *, activate):
    """The expected output of a normalization.

    Args:
        text: Its name, with its number if it has one.
        x: N × C × H × W.
        p: The layer's parameters, by name.
        activate: Whether an activation follows or is included.
    """
    name, _, digits = text.partition("=")
    number = int(digits) if digits else None
    if activate and name in ACTIVATED:
        return ACTIVATED[name](x, p, number)
    y = FORMULAS[name](x, p, number)
    return y.relu() if activate else y


def standardized_filters(weight, norm="gn-ws"):
    """The filters of the convolutions before gn-ws or sws."""
    rows = weight.flatten(1)
    deviation = rows.var(1, correction=0, keepdim=True) + 1e-10
    if norm == "sws":
        deviation = rows.shape[1] * deviation
    return ((rows - rows.mean(1, keepdim=True)) / deviation.sqrt()).view_as(weight)
