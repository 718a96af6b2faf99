"""The network: layers, halves, exchange, graphs, kernels."""
