"""Train with Hugging Face's Trainer, on batches that are dictionaries; it resumes from its last checkpoint."""

from typing import Any

from accelerate.data_loader import DataLoaderShard
from alexnet_client import Batch
from alexnet_client.torch import StreamDataset, tensors
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

EPOCHS, SAVE_EVERY = 2, 3


def inputs(batch: Batch) -> dict[str, Any]:
    images, labels = tensors(batch)
    return {"pixel_values": images / 255, "labels": labels}


class StreamTrainer(Trainer):
    def get_train_dataloader(self) -> DataLoaderShard:
        """Unprepared: each rank reads its own part. A DataLoaderShard tells the dataset the epoch."""
        return DataLoaderShard(self.train_dataset, batch_size=None)


arguments = TrainingArguments("hugging_face", num_train_epochs=EPOCHS, save_steps=SAVE_EVERY, report_to="none")
dataset = StreamDataset(
    "tcp://127.0.0.1:5555",
    split="train",
    crop=64,
    batch_size=32,
    transform=inputs,
    rank=arguments.process_index,
    world_size=arguments.world_size,
)
set_seed(0)
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=len(dataset.info.classes))
model = ResNetForImageClassification(config)
trainer = StreamTrainer(model, arguments, train_dataset=dataset)
trainer.train(resume_from_checkpoint=get_last_checkpoint("hugging_face"))
