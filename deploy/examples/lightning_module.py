"""Train with Lightning: the dataset is the dataloader, and its place is in every checkpoint, to resume there."""

from pathlib import Path

import lightning
import torch
from alexnet_client.torch import StreamDataset
from lightning.pytorch.callbacks import ModelCheckpoint

CHECKPOINT = Path("lightning/last.ckpt")
EPOCHS, SAVE_EVERY, CLASSES = 2, 3, 10


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 8, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 15 * 15, CLASSES)
        )

    def train_dataloader(self) -> StreamDataset:
        trainer = self.trainer
        return StreamDataset(
            "tcp://127.0.0.1:5555",
            split="train",
            crop=64,
            batch_size=32,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.model(images / 255), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


lightning.seed_everything(0)
trainer = lightning.Trainer(
    max_epochs=EPOCHS,
    logger=False,
    callbacks=[ModelCheckpoint("lightning", save_last=True, every_n_train_steps=SAVE_EVERY)],
)
trainer.fit(model := Classifier(), ckpt_path=CHECKPOINT if CHECKPOINT.exists() else None)
