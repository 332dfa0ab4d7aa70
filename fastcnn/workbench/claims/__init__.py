"""Claims of the papers, measured: one file a claim.

common.py       what a claim is, how models are compared
stacked.py ...  the claims, in the order of CLAIMS
record.py       the JSON file of a device
show.py         tables for the terminal and for Markdown
plots.py        two pictures
command.py      python -m fastcnn claims
"""

from fastcnn.workbench.claims import activation, depth, inception, normalisation, rbf, reduction, stacked, two_devices
from fastcnn.workbench.claims.common import Claim

CLAIMS: dict[int, Claim] = {
    module.CLAIM.number: module.CLAIM
    for module in (stacked, reduction, inception, normalisation, activation, depth, two_devices, rbf)
}
