"""Devices, CUDA streams and CUDA graphs: the only files that name them."""
