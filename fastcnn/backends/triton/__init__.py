"""Triton kernels: how they are launched, compiled and priced."""
