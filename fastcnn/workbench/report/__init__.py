"""Measurements: what is timed, against whom, and the report made of the results.

cases.py        what is timed: operators at the layer shapes of the networks, networks, call overhead
plain.py        the same computation in PyTorch alone: the baselines' model and the truth in float64
contenders.py   who is timed: fastcnn, PyTorch and, from peers.py, other engines
timing.py       how: interleaved blocks with a pause and a warm-up
roofline.py     what the device could do: ceilings, and each case's floor
measure.py      one case: check every contender's result, then time them
results.py      result files, in pytest-benchmark's format
plots.py page.py docs.py   the report: plots, one HTML page, the figures in the documentation
commands.py     python -m fastcnn bench, report
"""
