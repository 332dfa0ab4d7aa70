"""Verification of GPU kernels: kernels.py on a GPU against float64, triton_sweep.py by the compiler alone."""
