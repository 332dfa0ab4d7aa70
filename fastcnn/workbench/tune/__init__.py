"""Tuning. rules.py checks the CPU's rules, gpu.py times a GPU's candidates and writes the fastest into a file."""
