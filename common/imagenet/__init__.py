"""ILSVRC2012 as distributed: devkit, its MATLAB file, untrusted archives."""
