"""Devices, CUDA streams and CUDA graphs."""
