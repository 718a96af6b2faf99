"""A folder for a model hub: config.json, model.safetensors, and a model card."""

import json
from dataclasses import asdict
from typing import Any

from common.cli.progress import percent
from trainer.checkpoints.state import State
from trainer.plain.run_file import StoredNet

_CARD = """\
---
library_name: pytorch
pipeline_tag: image-classification
tags:
- alexnet
- image-classification
---

# AlexNet (2012), recipe {recipe}

The network of Krizhevsky, Sutskever and Hinton, [ImageNet Classification with Deep Convolutional Neural
Networks](https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks): grouped
convolutions, local response normalisation, {parameters:,} parameters, {classes:,} classes.

| | |
|---|---|
| recipe | {recipe}, width {width:g} |
| trained | {epochs}, step {step:,}, seed {seed}, {precision} |
| lowest validation top-1 error, one view | {error} |
| training data | {classes:,} classes; digest `{dataset}` |

`config.json` holds class names and the whole recipe, `model.safetensors` weights and the mean image.

## Use

Input: RGB images as uint8, N x 3 x 256 x 256, 0 to 255: the shorter side resized to 256, then the centre. The mean
image, the scale and the centre crop of {crop} x {crop} are the network's own.

```
from alexnet2012 import AlexNet2012

net = AlexNet2012.from_run("model.safetensors")
probabilities = net.probabilities(images, views=10)
```

## Limits

It knows its {classes:,} classes alone, and answers with one of them for any image. Errors on data of another kind than
it was trained on are not known.
"""


def config_json(stored: StoredNet, state: State) -> str:
    names = dict(enumerate(stored.class_names))
    config: dict[str, Any] = {
        "architectures": ["AlexNet2012"],
        "model_type": "alexnet2012",
        "num_labels": len(names),
        "id2label": names,
        "label2id": {name: label for label, name in names.items()},
        "image_size": [256, 256],
        "recipe": asdict(state.recipe),
    }
    return json.dumps(config, indent=2) + "\n"


def model_card(stored: StoredNet, state: State) -> str:
    return _CARD.format(
        recipe=state.recipe.name,
        parameters=sum(tensor.numel() for name, tensor in stored.tensors.items() if "." in name),
        classes=state.recipe.classes,
        width=state.recipe.width,
        epochs=f"{state.epoch:,} of {state.recipe.epochs:,} epochs",
        step=state.step,
        seed=state.seed,
        precision=state.precision,
        error="not measured" if state.best_error is None else f"{percent(state.best_error)}",
        dataset=state.dataset,
        crop=state.recipe.crop,
    )
