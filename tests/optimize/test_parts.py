"""A model that cannot be captured whole: its modules run plans, and what it computes and leaves behind is its own."""

import copy
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import zoo
from torch import nn

import fastcnn
from fastcnn.optimize.plans import PartPlans

ran = []  # the blocks whose forward ran as it is written


class Block(nn.Module):
    def __init__(self, channels, features):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 3, padding=1)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x):
        ran.append(self)
        return self.norm(self.conv(x)).relu()


class Branching(nn.Module):
    """No graph repeats it: values decide which of its blocks run."""

    def __init__(self):
        super().__init__()
        self.stem = Block(3, 8)
        self.left, self.right = Block(8, 8), nn.Sequential(Block(8, 8), Block(8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.stem(x)
        y = self.left(y) if x.mean() > 0 else self.right(y)
        return self.head(y.mean((2, 3)))


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def optimized(model, times=3, *inputs):
    """After so many calls with each input: each level of modules is recorded, made a plan, and checked in one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = fastcnn.optimize(model)
        for x in inputs:
            for _ in range(times):
                fast(x)
    return fast


def assert_same(fast, model, *inputs):
    for x in inputs:
        for _ in range(4):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def runs_as_written(fast, *args):
    """How many blocks run as they are written in a call."""
    ran.clear()
    fast(*args)
    return len(ran)


@pytest.fixture
def model():
    return zoo.perturbed(Branching())


positive, negative = torch.rand(2, 3, 15, 17), -torch.rand(2, 3, 15, 17)


def test_largest_modules_run_plans(model):
    fast = fastcnn.optimize(model)
    with pytest.warns(
        UserWarning, match=r"runs Branching as it is: Branching, test_parts.py:\d+: the values"
    ) as caught:
        assert_same(fast, model, positive, negative)
    assert len(caught) == 1
    assert runs_as_written(fast, positive) == runs_as_written(fast, negative) == 0
    report = fastcnn.explain(fast, negative)
    assert "PyTorch runs the network: Branching" in str(report)
    assert [row.computes for row in report.rows if row.operator == "conv2d"] == [
        (f"{path}.conv", f"{path}.norm", f"{path}.relu") for path in ("stem", "right.0", "right.1")
    ]
    made = {part.plans.path for part in fast._fastcnn._parts._parts.values() if part.plans._captured}
    assert made == {"stem", "left", "right", "head"}


def test_the_model_and_other_threads_run_as_written(model):
    fast = optimized(model, 3, positive)
    assert runs_as_written(model, positive) == 2
    inside, seen = threading.Event(), threading.Event()

    class Waiting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            inside.set()
            assert seen.wait(60)
            return self.net(x)

    with ThreadPoolExecutor(1) as pool, torch.no_grad():
        seen.set()
        outer = optimized(Waiting(), 4, positive)
        seen.clear(), inside.clear()
        result = pool.submit(lambda: torch.no_grad()(outer)(positive))
        assert inside.wait(60)
        assert runs_as_written(model, positive) == 2
        seen.set()
        assert torch.equal(result.result(), fast(positive))


def test_many_threads(model):
    """The model is given in training mode, which each call has to leave for a while."""
    model.train()
    fast = optimized(model, 0)
    expected = {id(x): copy.deepcopy(model).eval()(x) for x in (positive, negative)}

    def call(x):
        with torch.no_grad():
            return x, fast(x)

    with ThreadPoolExecutor(8) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, y in pool.map(call, [positive, negative] * 40):
            torch.testing.assert_close(y, expected[id(x)], rtol=1e-4, atol=1e-5)
    assert all(module.training for module in model.modules())


def test_a_module_called_twice_with_other_shapes_and_by_forward(model):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(3, 3)

        def forward(self, x):
            assert x.isfinite().all()
            y = self.block(self.block(x))
            return y + self.block(x[..., 1:])[..., :1] + self.block.forward(x)

    net = zoo.perturbed(Net())
    fast = optimized(net, 3, positive)
    assert_same(fast, net, positive, positive[:0], positive[:1, :, ::2])
    assert runs_as_written(fast, positive) == 1  # the one called by its forward


def test_hooks_run_around_a_module_and_plans_below_it(model):
    seen = []
    model.right.register_forward_hook(lambda module, args, result: seen.append(result) or 2 * result)
    fast = optimized(model, 3, negative)
    assert_same(fast, model, negative)
    seen.clear()
    assert runs_as_written(fast, negative) == 0
    assert len(seen) == 1
    handle = model.stem.register_forward_pre_hook(lambda module, args: (3 * args[0],))
    assert_same(fast, model, negative)
    assert runs_as_written(fast, negative) == 1
    handle.remove()
    assert_same(fast, model, negative)
    assert runs_as_written(fast, negative) == 0


def test_a_modules_forward_replaced(model):
    fast = optimized(model, 3, positive)
    model.stem.forward = lambda x: Block.forward(model.stem, 2 * x)
    assert_same(fast, model, positive)
    del model.stem.forward
    assert_same(fast, model, positive)
    model.left = zoo.perturbed(Block(8, 8))
    assert_same(fast, model, positive, negative)
    assert runs_as_written(fast, positive) == 0


def test_what_a_module_leaves_behind():
    class Recording(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.calls, self.features = Block(3, 3), 0, []

        def forward(self, x):
            self.calls += 1
            self.features.append(self.block(x))
            return self.features[-1]

    model = zoo.perturbed(nn.Sequential(Recording(), nn.Conv2d(3, 5, 3), nn.ReLU()))
    fast = optimized(model, 5, positive)
    assert (model[0].calls, len(model[0].features)) == (5, 5)
    assert_same(fast, model, positive)
    assert runs_as_written(fast, positive) == 0


def test_what_is_left_elsewhere():
    """A list outside of the model is filled on each call; what is made once, as tables are, is a constant."""
    found, table = [], {}

    class Net(nn.Module):
        def __init__(self, keeps):
            super().__init__()
            self.block, self.keeps = Block(3, 3), keeps

        def forward(self, x):
            if self.keeps == "results":
                found.append(self.block(x) + 1)
            elif "table" not in table:
                table["table"] = torch.arange(17) / 17
            return self.block(x) * (found[-1] if found else table["table"])

    model = zoo.perturbed(Net("tables"))
    fast = fastcnn.optimize(model)
    assert_same(fast, model, positive)
    assert runs_as_written(fast, positive) == 0
    assert fast._fastcnn.program(positive) is not None
    model = zoo.perturbed(Net("results"))
    fast = optimized(model, 6, positive)
    assert len(found) == 6
    assert_same(fast, model, positive)
    assert runs_as_written(fast, positive) == 0


shared = {}


@pytest.mark.parametrize("where", ["a number in a module", "a tensor in a module", "a tensor elsewhere"])
def test_what_one_module_writes_and_another_reads(where):
    """The second module reads of the first what no argument shows."""

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            scale = x.mean() + 1
            if where == "a tensor elsewhere":
                shared["scale"] = scale
            else:
                self.scale = float(scale) if "number" in where else scale
            return self.conv(x)

    class Second(nn.Module):
        def __init__(self, others):
            super().__init__()
            self.conv, self.others = nn.Conv2d(3, 3, 3), others

        def forward(self, x):
            return self.conv(x) * (shared["scale"] if "elsewhere" in where else self.others[0].scale)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = First()
            self.second = Second((self.first,))

        def forward(self, x):
            return self.second(self.first(x if x.isfinite().all() else -x))

    model = zoo.perturbed(Net())
    fast = optimized(model, 0)
    x = torch.randn(1, 3, 9, 9)
    for i in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = x + i // 10  # the same until plans are made and checked
            torch.testing.assert_close(fast(given), model(given), rtol=1e-4, atol=1e-4)


def test_results_of_parts_may_be_written_to():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.same, self.act = Block(3, 3), nn.Identity(), nn.ReLU(inplace=True)
            self.flat = nn.Flatten()

        def forward(self, x):
            y = self.block(x)
            first = y.clone()
            if y.sum() != 3:
                y -= 0.1
            z = self.same(y)
            z.mul_(2)
            view = self.flat(z)
            self.act(z)
            view[:, 0] = 7
            return first, y, z, view, self.block(x)

    model = zoo.perturbed(Net())
    fast = optimized(model, 3, positive)
    assert_same(fast, model, positive)
    first, y, z, view, last = fast(positive)
    assert y is z
    assert view.data_ptr() == z.data_ptr()
    assert torch.equal(first, last)


def test_exceptions(model):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            try:
                return self.net(x)
            except RuntimeError:
                return self.net(x[:, :3])

    fast = optimized(Net(), 5, positive)
    wrong = torch.cat([positive, positive], 1)
    for _ in range(4):
        torch.testing.assert_close(fast(wrong), model(positive), rtol=1e-4, atol=1e-5)
        with pytest.raises(RuntimeError):
            fast(positive[:, :2])
        assert runs_as_written(model, positive) == 2
    assert runs_as_written(fast, positive) == 0


def test_weights_modes_and_gradients(model):
    fast = optimized(model, 3, positive)
    with torch.no_grad():
        model.left.conv.weight.mul_(2)
        model.left.norm.running_mean.add_(1)
        assert_same(fast, model, positive)
        assert runs_as_written(fast, positive) == 0
    model.left.norm.weight = model.stem.norm.weight  # tied
    assert_same(fast, model, positive)
    other = {name: 2 * t for name, t in model.named_parameters()}
    got, expected = (torch.func.functional_call(m, other, (positive,)) for m in (fast, model))
    torch.testing.assert_close(got, expected)
    with torch.enable_grad():
        assert runs_as_written(fast, positive) == 2
        gradients = [torch.autograd.grad(m(positive).sum(), m.stem.conv.weight)[0] for m in (fast, model)]
        assert torch.equal(*gradients)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(4):
            torch.testing.assert_close(fast(positive), model(positive), rtol=0.05, atol=0.05)
    fast.train()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(fast(positive), twin(positive))
    torch.testing.assert_close(model.stem.norm.running_var, twin.stem.norm.running_var)


def test_copies(model):
    fast = optimized(model, 4, positive)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), copy.deepcopy(model)):
        torch.testing.assert_close(other(positive), fast(positive), rtol=1e-4, atol=1e-5)
    assert "_compiled_call_impl" not in vars(model)


@pytest.mark.filterwarnings("ignore")
def test_traced_exported_compiled():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.count = Block(3, 3), 0

        def forward(self, x):
            self.count = self.count + 1  # changes on each call
            return self.block(x)

    net = zoo.perturbed(Net())
    fast = optimized(net, 6, positive)
    expected = net(positive)
    assert runs_as_written(fast, positive) == 0
    torch.testing.assert_close(torch.jit.trace(fast, positive)(positive), expected)
    torch.testing.assert_close(torch.export.export(fast, (positive,), strict=False).module()(positive), expected)
    torch.testing.assert_close(torch.compile(fast, backend="eager")(positive), expected)
    torch.testing.assert_close(torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 3)))(positive).shape, (2, 3, 13, 15))
    plain = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    compiled = torch.compile(plain, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(positive), plain(positive))


def test_compiled_inside(model):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Block(3, 3), Block(3, 3)
            self.first.compile(backend="eager")
            self.whole = torch.compile(self.twice, backend="eager", fullgraph=True)

        def twice(self, x):
            return self.second(2 * x)

        def forward(self, x):
            y = self.first(x)
            return self.whole(y if y.sum() > 0 else -y)

    net = zoo.perturbed(Net())
    fast = optimized(net, 0)
    with pytest.warns(UserWarning, match="the values of a tensor decide"):
        assert_same(fast, net, positive)


def test_ever_new_shapes_are_not_planned_for():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(3, 3)

        def forward(self, x):
            return self.block(x[: int(x.sum()) % 50])

    net = zoo.perturbed(Net())
    fast = optimized(net, 1, torch.ones(50, 3, 2, 2))
    for i in range(30):
        x = torch.zeros(50, 3, 2, 2)
        x[0, 0, 0, 0] = i
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    (part,) = [p for p in fast._fastcnn._parts._parts.values() if p.module is net.block]
    assert len(part.plans._captured) == PartPlans.PATIENCE


def test_what_raises_only_when_it_is_watched():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(3, 3)

        def forward(self, x):
            if torch._C._len_torch_dispatch_stack():
                raise RuntimeError("a mode")
            return self.block(x)

    net = zoo.perturbed(Net())
    fast = fastcnn.optimize(net)
    with pytest.warns(UserWarning, match="RuntimeError"):
        assert_same(fast, net, positive)
    assert runs_as_written(fast, positive) == 0
