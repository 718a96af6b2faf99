"""The paper's figure 3: the first layer's filters, half 0's above half 1's.

python tests/bench/figure3.py RUN [--picture figure3.png]
"""

import argparse
from pathlib import Path

import matplotlib.image
import numpy as np

from trainer.evaluation.trained import load_trained
from trainer.training.board import filters_image

ZOOM = 6  # pixels of the picture for each of a filter's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a checkpoint, or the folder of a run")
    parser.add_argument("--picture", type=Path, default=Path("figure3.png"), help="picture to write")
    given = parser.parse_args()
    trained = load_trained(given.run)
    first = trained.weights[f"{trained.state.recipe.conv[0].name}.weight"].numpy()
    picture = filters_image(first, trained.state.recipe.columns)
    matplotlib.image.imsave(given.picture, np.kron(picture, np.ones((ZOOM, ZOOM, 1), np.uint8)))


if __name__ == "__main__":
    main()
