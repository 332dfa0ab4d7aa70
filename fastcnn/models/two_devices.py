"""AlexNet on two devices, as its paper trained it: model parallelism over torch.distributed.

Each process holds one half of the net (48, 128, 192, 192 and 128 channels, 2048 and 2048 units) on its own
device. They exchange activations before conv3 and before the three linear layers. Started by
``torchrun --nproc-per-node 2``, each process does

    torch.distributed.init_process_group("gloo")          # "nccl" on two GPUs
    net = TwoDeviceAlexNet(alexnet(weights="alexnet.safetensors")).to(device)
    logits = net(pictures)                                 # the same on both

Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
"""

from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

import fastcnn.functional as F
from fastcnn import nn
from fastcnn.models.alexnet import AlexNet


class _Gather(torch.autograd.Function):
    """The tensors of both processes, in the order of their ranks.

    Each process makes its own half of the next layer from both tensors, so the gradient of a tensor is the sum
    of what the two found. Where both make the whole next layer (`replicated`), either has found all of it.
    """

    @staticmethod
    def forward(ctx: Any, mine: Tensor, replicated: bool, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
        ctx.replicated, ctx.group = replicated, group
        mine = mine.contiguous()
        both = (torch.empty_like(mine), torch.empty_like(mine))
        dist.all_gather(list(both), mine, group=group)
        return both

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        both = torch.stack(grads)
        if not ctx.replicated:
            dist.all_reduce(both, group=ctx.group)
        return both[dist.get_rank(ctx.group)], None, None


class TwoDeviceAlexNet(torch.nn.Module):
    """This process's half of a grouped AlexNet: (N, 3, 224, 224) to the whole net's (N, num_classes) logits.

    Both processes pass the same pictures and get the same logits; the last linear layer is computed in full by
    both. The output is that of the whole net, to rounding. The gradients of the halves are those of the whole
    net's halves; the pictures' own gradient is the sum of what the two processes find.

    Args:
        model: the whole net, variant "paper" or "textbook", the same in both processes; its half is copied.
        exact_normalisation: let the processes also exchange the two channels on either side of their border,
            over which the windows of local response normalisation reach in the whole net. False: windows end
            at the border, as on the paper's GPUs, and the output differs a little. Variant "paper" only.
        group: two processes; the default group unless given.

    Raises:
        ValueError: the variant has no two groups, or the group has another size than two.
        RuntimeError: torch.distributed has not been initialised.
    """

    def __init__(
        self, model: AlexNet, *, exact_normalisation: bool = True, group: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__()
        if model.variant not in ("paper", "textbook"):
            raise ValueError(
                f"TwoDeviceAlexNet: model is variant {model.variant!r}, one column; 'paper' or 'textbook' is needed"
            )
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError("TwoDeviceAlexNet: call torch.distributed.init_process_group first")
        if dist.get_world_size(group) != 2:
            raise ValueError(f"TwoDeviceAlexNet: group has {dist.get_world_size(group)} processes; 2 are needed")
        self.group, self.rank, self.exact_normalisation = group, dist.get_rank(group), exact_normalisation
        features, classifier = model.features, model.classifier
        self.conv1 = self._half_conv(features.get_submodule("conv1"))
        self.conv2 = self._half_conv(features.get_submodule("conv2"))
        self.conv3 = self._half_conv(features.get_submodule("conv3"))
        self.conv4 = self._half_conv(features.get_submodule("conv4"))
        self.conv5 = self._half_conv(features.get_submodule("conv5"))
        # The same normalisation and pooling after every stage.
        self.norm = features.get_submodule("norm1") if model.variant == "paper" else None
        self.pool = features.get_submodule("pool1")
        self.fc6 = self._half_linear(classifier.get_submodule("fc6"))
        self.fc7 = self._half_linear(classifier.get_submodule("fc7"))
        fc8 = cast(torch.nn.Linear, classifier.get_submodule("fc8"))
        self.fc8 = nn.Linear(fc8.in_features, fc8.out_features, device=fc8.weight.device, dtype=fc8.weight.dtype)
        self.fc8.load_state_dict(fc8.state_dict())
        self.dropout = torch.nn.Dropout(0.5)
        self.train(model.training)

    def forward(self, input: Tensor) -> Tensor:
        """(N, 3, 224, 224) to (N, num_classes) logits, the same in both processes."""
        x = self.pool(self._normalise(self.conv1(input)))
        x = self.pool(self._normalise(self.conv2(x)))
        x = self.conv3(F.concat(self._exchange_maps(x)))
        x = self.pool(self.conv5(self.conv4(x)))
        x = torch.flatten(x, 1)
        x = self.fc6(self._exchange_units(self.dropout(x)))
        x = self.fc7(self._exchange_units(self.dropout(x)))
        return self.fc8(self._exchange_units(x, replicated=True))

    def _normalise(self, x: Tensor) -> Tensor:
        if self.norm is None or not self.exact_normalisation:
            return x if self.norm is None else self.norm(x)
        channels, reach = x.shape[1], cast(nn.LocalResponseNorm, self.norm).size // 2
        if self.rank == 0:
            beyond = self._exchange_maps(x[:, channels - reach :])[1]
            return self.norm(F.concat([x, beyond]))[:, :channels]
        beyond = self._exchange_maps(x[:, :reach])[0]
        return self.norm(F.concat([beyond, x]))[:, reach:]

    def _exchange_maps(self, x: Tensor) -> list[Tensor]:
        # In channels_last order: all_gather wants contiguous tensors, and the kernels want this layout back.
        both = _Gather.apply(x.permute(0, 2, 3, 1), False, self.group)
        return [half.permute(0, 3, 1, 2) for half in both]

    def _exchange_units(self, x: Tensor, replicated: bool = False) -> Tensor:
        return torch.cat(_Gather.apply(x, replicated, self.group), dim=1)

    @torch.no_grad()
    def _half_conv(self, module: torch.nn.Module) -> nn.Conv2d:
        whole = cast(nn.Conv2d, module)
        weight, bias = self._half(whole.weight), self._half(cast(Tensor, whole.bias))
        pair = partial(cast, tuple[int, int])
        half = nn.Conv2d(
            weight.shape[1], weight.shape[0], pair(whole.kernel_size), pair(whole.stride), pair(whole.padding),
            activation=whole.activation, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        half.load_state_dict({"weight": weight, "bias": bias})
        return half

    @torch.no_grad()
    def _half_linear(self, module: torch.nn.Module) -> nn.Linear:
        whole = cast(nn.Linear, module)
        weight, bias = self._half(whole.weight), self._half(whole.bias)
        half = nn.Linear(
            weight.shape[1], weight.shape[0], activation=whole.activation, device=weight.device, dtype=weight.dtype
        )
        half.load_state_dict({"weight": weight, "bias": bias})
        return half

    def _half(self, tensor: Tensor) -> Tensor:
        return tensor.chunk(2)[self.rank]
