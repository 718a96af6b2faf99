"""Train on a stream with torch alone. Interrupted anywhere and run again, it ends with the same weights."""

import os
from pathlib import Path

import torch
from alexnet_client.torch import StreamDataset
from torch.utils.data import DataLoader

CHECKPOINT = Path("plain.pt")
EPOCHS, SAVE_EVERY = 2, 3  # steps

torch.manual_seed(0)
dataset = StreamDataset("tcp://127.0.0.1:5555", split="train", seed=0, crop=64, batch_size=32)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 8, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(len(dataset.info.classes))
)
model(torch.zeros(1, 3, 64, 64))  # gives the last layer its size
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

if CHECKPOINT.exists():
    saved = torch.load(CHECKPOINT)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    dataset.load_state_dict(saved["stream"])


def save() -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "stream": dataset.state_dict()}
    torch.save(state, "plain.new")
    os.replace("plain.new", CHECKPOINT)  # whole, or not at all


for epoch in range(dataset.epoch, EPOCHS):
    for step, (images, labels) in enumerate(DataLoader(dataset, batch_size=None), 1):
        loss = torch.nn.functional.cross_entropy(model(images / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % SAVE_EVERY == 0:
            save()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
    save()
