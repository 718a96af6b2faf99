"""ILSVRC2012 as distributed: the devkit and its MATLAB file."""
