"""Random layouts of the notation, and networks with random values."""

import torch
from hypothesis import strategies as st

ENDS = ("GAP FC", "c GAP", "GAP C:5 FC", "A FC")


@st.composite
def layouts(draw, norms, *, shape=(3, 32, 32), most=6, between=False, ends=ENDS):
    """A layout of some blocks and a classifier, with maps of at least 4 × 4.

    Args:
        norms: The normalizations that a block may name, by its inputs and its channels.
        shape: Shape (C, H, W) of an image.
        most: Number of blocks, at most.
        between: Whether a `D` may have an activation between its halves.
        ends: The classifiers.
    """
    tokens, (channels, side, _) = [], shape
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from("CCDDcPA"))
        if kind in "PA":
            if side >= 8:
                tokens.append(kind)
                side //= 2
            continue
        inputs, option, tail = channels, "", ""
        if draw(st.booleans()):
            tail = draw(st.sampled_from(["+", "+*2", "*2", "+*3"]))
        else:
            channels = draw(st.integers(2, 7))
            sides = {"": side, "v": side - 2, "s2": (side + 1) // 2, "vs2": (side - 1) // 2}
            fits = [o for o, s in sides.items() if s >= 4 and not (kind == "c" and "v" in o)]
            option = draw(st.sampled_from(fits))
            side = sides[option]
        own = ""
        if kind != "c" and draw(st.booleans()):  # D has two normalizations
            own = "/" + draw(st.sampled_from(norms(inputs, channels)))
        middle = "a" if between and kind == "D" and draw(st.booleans()) else ""
        tokens.append(f"{kind}:{channels}{option}{middle}{own}{tail}")
    return " ".join([*tokens, draw(st.sampled_from(ends))])


def randomize(network, random):
    """Gives a network random statistics, and its weights a scale that features keep."""
    for name, tensor in network.state_dict().items():
        if ("norms." in name or "branch_scales" in name) and tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=random)
            center = 0.0 if name.endswith(("bias", "mean", "threshold", "scales")) else 1.0
            tensor.copy_(noise - 0.5 + center)
    network.input_mean.fill_(0.3)
    network.input_std.fill_(0.4)
    with torch.no_grad():
        for weight in network.weights:
            weight *= 6**0.5
