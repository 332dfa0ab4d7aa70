"""Networks in 8 bits: `quantize.quantize` and its parts."""
