"""Files of ILSVRC2012 as it is distributed: archives, devkit, the order of packing."""
