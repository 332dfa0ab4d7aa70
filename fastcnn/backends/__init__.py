"""How the kernels of a kind are bound: C++ on the CPU, CUDA C++, Triton, and PyTorch's operators as the reference."""
