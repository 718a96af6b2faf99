"""The network of Krizhevsky, Sutskever and Hinton (2012) as a plain torch module, apart from everything else here.

Also imported as `alexnet2012`. It needs torch, and safetensors to read a run.
"""

from .alexnet import AlexNet2012
from .architecture import Architecture, ConvLayer, FullLayer
from .published import ABLATIONS, PUBLISHED, architecture

__all__ = ["ABLATIONS", "PUBLISHED", "AlexNet2012", "Architecture", "ConvLayer", "FullLayer", "architecture"]
