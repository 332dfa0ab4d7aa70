"""Each network that torchvision does not define, written a second time with torch.nn.functional alone.

Every function takes a state_dict and an input, and shares no code with the package.
"""

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def conv(s: State, name: str, x: torch.Tensor, **kw: object) -> torch.Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **kw)


def linear(s: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def bn(s: State, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, s[f"{name}.weight"], s[f"{name}.bias"])


def squash(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "scaled_tanh":
        return 1.7159 * torch.tanh(x * 2 / 3)
    return torch.tanh(x) if kind == "tanh" else 1 / (1 + torch.exp(-x))


def lenet_paper(s: State, x: torch.Tensor, kind: str = "scaled_tanh") -> torch.Tensor:
    def subsample(name: str, x: torch.Tensor) -> torch.Tensor:
        total = x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
        scale, bias = (s[f"{name}.{part}"].view(-1, 1, 1) for part in ("coefficient", "bias"))
        return squash(total * scale + bias, kind)

    x = squash(conv(s, "features.c1", x), kind)
    x = subsample("features.s2", x)
    # Three in a row, four in a row, two pairs of two, all six.
    table = [sorted((first + i) % 6 for i in range(3)) for first in range(6)]
    table += [sorted((first + i) % 6 for i in range(4)) for first in range(6)]
    table += [[c for c in range(6) if c not in left_out] for left_out in ((2, 5), (0, 3), (1, 4))]
    table += [list(range(6))]
    kernels = iter(s["features.c3.weight"])
    maps = []
    for k, sources in enumerate(table):
        total = s["features.c3.bias"][k]
        for c in sources:
            total = total + F.conv2d(x[:, c : c + 1], next(kernels)[None, None])
        maps.append(total)
    x = squash(torch.cat(maps, 1), kind)
    x = subsample("features.s4", x)
    x = squash(conv(s, "features.c5", x), kind).flatten(1)
    x = squash(linear(s, "f6", x), kind)
    return torch.stack([((x - center) ** 2).sum(1) for center in s["output.centers"]], 1)


def lenet_modern(s: State, x: torch.Tensor) -> torch.Tensor:
    x = F.max_pool2d(F.relu(conv(s, "features.c1", x)), 2)
    x = F.max_pool2d(F.relu(conv(s, "features.c3", x)), 2)
    x = F.relu(conv(s, "features.c5", x)).flatten(1)
    return linear(s, "output", F.relu(linear(s, "f6", x)))


def alexnet(s: State, x: torch.Tensor, variant: str) -> torch.Tensor:
    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.local_response_norm(x, 5, 1e-4, 0.75, 2.0) if variant == "paper" else x

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 3, 2) if variant == "paper" else F.max_pool2d(x, 2, 2)

    x = pool(norm(F.relu(conv(s, "features.conv1", x, stride=4, padding=2))))
    x = pool(norm(F.relu(conv(s, "features.conv2", x, padding=2 if variant == "paper" else 1, groups=2))))
    x = F.relu(conv(s, "features.conv3", x, padding=1))
    x = F.relu(conv(s, "features.conv4", x, padding=1, groups=2))
    x = pool(F.relu(conv(s, "features.conv5", x, padding=1, groups=2))).flatten(1)
    x = F.relu(linear(s, "classifier.fc6", x))
    x = F.relu(linear(s, "classifier.fc7", x))
    return linear(s, "classifier.fc8", x)


def vgg(s: State, x: torch.Tensor, stages: tuple[str, ...], lrn: bool = False, dense: bool = False) -> torch.Tensor:
    """stages: a digit a convolution, its kernel size; e.g. ("33", "33", "331", "331", "331") is C."""
    keys = iter([key.removesuffix(".weight") for key in s if key.startswith("features") and key.endswith("weight")])
    first = True
    for stage in stages:
        for kernel in stage:
            x = F.relu(conv(s, next(keys), x, padding=int(kernel) // 2))
            x = F.local_response_norm(x, 5, 1e-4, 0.75, 2.0) if lrn and first else x
            first = False
        x = F.max_pool2d(x, 2)
    assert not list(keys)
    if dense:  # the classifier on every 7x7 window
        windows = x.unfold(2, 7, 1).unfold(3, 7, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
    else:
        windows = F.adaptive_avg_pool2d(x, 7).flatten(1)
    y = F.relu(linear(s, "classifier.0", windows))
    y = linear(s, "classifier.6", F.relu(linear(s, "classifier.3", y)))
    return y.permute(0, 3, 1, 2) if dense else y


def googlenet_paper(s: State, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits and those of the heads on 4d and on 4a, without dropout."""

    def relu_conv(name: str, x: torch.Tensor, **kw: object) -> torch.Tensor:
        return F.relu(conv(s, name, x, **kw))

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def inception(name: str, x: torch.Tensor) -> torch.Tensor:
        a = relu_conv(f"{name}.branch1", x)
        b = relu_conv(f"{name}.branch2.1", relu_conv(f"{name}.branch2.0", x), padding=1)
        c = relu_conv(f"{name}.branch3.1", relu_conv(f"{name}.branch3.0", x), padding=2)
        d = relu_conv(f"{name}.branch4.1", F.max_pool2d(x, 3, 1, 1))
        return torch.cat([a, b, c, d], 1)

    def head(name: str, x: torch.Tensor) -> torch.Tensor:
        x = relu_conv(f"{name}.conv", F.avg_pool2d(x, 5, 3)).flatten(1)
        return linear(s, f"{name}.fc2", F.relu(linear(s, f"{name}.fc1", x)))

    x = F.local_response_norm(pool(relu_conv("conv1", x, stride=2, padding=3)), 5)
    x = relu_conv("conv3", relu_conv("conv2", x), padding=1)
    x = pool(F.local_response_norm(x, 5))
    x = pool(inception("inception3b", inception("inception3a", x)))
    x = inception("inception4a", x)
    aux1 = head("aux1", x)
    for block in "bcd":
        x = inception(f"inception4{block}", x)
    aux2 = head("aux2", x)
    x = pool(inception("inception4e", x))
    x = inception("inception5b", inception("inception5a", x))
    return linear(s, "fc", x.mean((2, 3))), aux2, aux1


def resnet(s: State, x: torch.Tensor, shortcut: str, cifar: bool = False) -> torch.Tensor:
    """Any ResNet; depth and block follow from the keys. shortcut: "A", "B" or "none"."""
    if cifar:
        x = F.relu(bn(s, "bn1", conv(s, "conv1", x, padding=1)))
    else:
        x = F.max_pool2d(F.relu(bn(s, "bn1", conv(s, "conv1", x, stride=2, padding=3))), 3, 2, 1)
    for stage in range(1, 4 if cifar else 5):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in s:
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            if f"{name}.conv3.weight" in s:
                y = F.relu(bn(s, f"{name}.bn1", conv(s, f"{name}.conv1", x)))
                y = F.relu(bn(s, f"{name}.bn2", conv(s, f"{name}.conv2", y, stride=stride, padding=1)))
                y = bn(s, f"{name}.bn3", conv(s, f"{name}.conv3", y))
            else:
                y = F.relu(bn(s, f"{name}.bn1", conv(s, f"{name}.conv1", x, stride=stride, padding=1)))
                y = bn(s, f"{name}.bn2", conv(s, f"{name}.conv2", y, padding=1))
            if shortcut == "none":
                skip = torch.zeros_like(y)
            elif y.shape == x.shape:
                skip = x
            elif shortcut == "A":
                skip = torch.zeros_like(y)
                skip[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            else:
                skip = bn(s, f"{name}.downsample.1", conv(s, f"{name}.downsample.0", x, stride=stride))
            x = F.relu(y + skip)
            index += 1
    return linear(s, "fc", x.mean((2, 3)))
