"""Which threads the native kernels run on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import os, torch, fastcnn, fastcnn.functional as F
from torch import nn

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
x = torch.randn(4, 64, 56, 56).contiguous(memory_format=torch.channels_last)
weight = torch.randn(64, 64, 3, 3)
torch.relu(x)
before = threads()
with torch.no_grad():
    ours = F.conv2d(x, weight, padding=1)
    after = threads()
    mixed = fastcnn.optimize(nn.Sequential(nn.Conv2d(64, 64, 3), nn.Softshrink(), nn.Conv2d(64, 64, 3)))
    mixed(x)
    beside = threads()
    fastcnn.optimize(nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)))(x)
    alone = threads()
child = os.fork()
if child == 0:  # libgomp's threads are gone here
    with torch.no_grad():
        again = F.conv2d(x, weight, padding=1)
    os._exit(0 if again.numpy().tobytes() == ours.numpy().tobytes() else 1)
print(before, after, beside, alone, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_kernels_share_torchs_threads_and_survive_a_fork() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    before, after, beside, alone, child = map(int, done.stdout.split())
    assert before >= 3, "PyTorch made no threads: nothing was tested"
    assert after == before
    assert beside == before
    assert alone == before + 2  # a whole network runs on the pool
    assert child == 0
