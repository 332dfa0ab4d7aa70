"""local_response_norm in CUDA C++."""

from fastcnn.backends import cuda as cuda_backend
from fastcnn.ops.lrn import contract
from fastcnn.ops.lrn.cpu import native_problem
from fastcnn.ops.lrn.reference import CANDIDATES as REFERENCE

CANDIDATES = (cuda_backend.unary_candidate(contract.NAME, "lrn", native_problem, REFERENCE[0]),)
