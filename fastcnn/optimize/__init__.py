"""`fastcnn.optimize`: a network that computes the same on fastcnn's kernels."""

from __future__ import annotations

from torch import nn

from fastcnn.core.explain import explain
from fastcnn.optimize.canonicalise import canonicalise
from fastcnn.optimize.capture import capture, eval_copy, has_hooks
from fastcnn.optimize.fold_batch_norm import fold_batch_norm
from fastcnn.optimize.fold_constants import fold_constants
from fastcnn.optimize.functionalise import functionalise
from fastcnn.optimize.fuse_activation import fuse_activation
from fastcnn.optimize.fuse_lrn_pool import fuse_lrn_pool
from fastcnn.optimize.fuse_residual import fuse_residual
from fastcnn.optimize.merge_parallel import merge_parallel
from fastcnn.optimize.module import Optimized, Options, PerLayer
from fastcnn.optimize.remove_assertions import remove_assertions
from fastcnn.optimize.remove_contiguous import remove_contiguous

PASSES = (
    functionalise,
    fold_constants,
    remove_assertions,
    canonicalise,
    remove_contiguous,
    fold_batch_norm,
    merge_parallel,
    fuse_residual,
    fuse_activation,
    fuse_lrn_pool,
)

# A part without any of these gains nothing.
COMPUTING = (nn.Conv2d, nn.Linear, nn.LocalResponseNorm, nn.BatchNorm2d)

__all__ = ["PASSES", "Optimized", "optimize"]


def optimize(model: nn.Module, *, report: bool = False, cuda_graphs: bool = True, prepack: bool = True) -> nn.Module:
    """A new module that computes what `model` computes in eval mode, on fastcnn's kernels.

    optimize(model)(x) = model.eval()(x), to rounding

    Args:
        model: any module; it is not changed. Weights that no pass rewrites are shared with it.
        report: print the table of `fastcnn.explain(optimized)`.
        prepack: on a CPU, keep a copy of each convolution's weights in the form that its kernel reads, up to four times
            as large. Without, each call packs them, some at a time: less memory, and slower at small batches. No
            effect on other devices.
        cuda_graphs: on a GPU, replay a CUDA graph from the third call with inputs of one shape on; the graphs of the
            last 8 shapes are kept, with their activations.

    Any batch and image size that the model takes may follow, on any device the model can be moved to. What has
    no kernel here is run by PyTorch. The result is for inference: `train()` raises RuntimeError, and its weights
    take no gradients; gradients with respect to the input are computed.

    Raises TypeError if model is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}; a torch.nn.Module is needed")
    options = Options(cuda_graphs, prepack)
    optimized = _optimize(eval_copy(model), options, alone=True)
    optimized.follow(model, lambda: _optimize(eval_copy(model), options, alone=True))
    if report:
        print(explain(optimized))
    return optimized


def _optimize(copied: nn.Module, options: Options, alone: bool) -> Optimized | PerLayer:
    """Rewrites what `eval_copy` made of a module; where tracing cannot follow it, the modules in it."""
    try:
        network = capture(copied)
        for rewrite in PASSES:
            rewrite(network)
        network.drop_unused()
        return Optimized(network, options, alone)
    except Exception as error:
        # User code may raise anything when it meets a tensor without data.
        reason = f"{type(copied).__name__}: {error}"
        for path, module in _parts(copied):
            parent, _, name = path.rpartition(".")
            setattr(copied.get_submodule(parent), name, _optimize(module, options, alone=False))
        return PerLayer(copied, reason)


def _parts(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules to optimize one by one. Containers stay: their owner indexes or iterates over them."""
    found = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential) and not has_hooks(child):
            found += _parts(child, f"{path}.")
        elif not has_hooks(child) and any(isinstance(m, COMPUTING) for m in child.modules()):
            found.append((path, child))
    return found
