"""Operators on bytes, from one layer's integers to the next's.

A quantised tensor is torch.uint8 and stands for scale * (u8 - zero): zero is 0 after a ReLU and 128 for what is signed,
because the processors' instructions multiply unsigned activations by signed weights. Scales and zero points belong to
the network's graph, not to the tensors; the functions here take what they need of them.
"""
