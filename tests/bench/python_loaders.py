"""Loaders of others.py that run Python code on each record: Grain, webdataset, MosaicML streaming."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.contenders import Augmentation, Images, Work


def grain(work: Work) -> Iterator[Images]:
    """ArrayRecord in groups of one record, batches made in processes."""
    import grain as library
    from array_record.python.array_record_module import ArrayRecordWriter

    path = str(work.folder / "images.array_record")
    writer = ArrayRecordWriter(path, "group_size:1")
    for file in work.files:
        writer.write(Path(file).read_bytes())
    writer.close()
    data = library.MapDataset.source(library.sources.ArrayRecordDataSource(path)).shuffle(seed=0).repeat()
    data = data.map(Augmentation(work.colour)).batch(work.batch_size, drop_remainder=True)
    reading = library.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # decoding is the work of the processes
    processes = library.MultiprocessingOptions(num_workers=work.threads, per_worker_buffer_size=2)
    yield from data.to_iter_dataset(reading).mp_prefetch(processes)


def webdataset(work: Work) -> Iterator[Images]:
    """Shards drawn again and again, batches made in the workers, WebLoader."""
    import webdataset as wds

    shard = -(-len(work.files) // (8 * work.threads))
    with wds.ShardWriter(str(work.folder / "images-%03d.tar"), maxcount=shard, verbose=0) as writer:
        for number, file in enumerate(work.files):
            writer.write({"__key__": f"{number:06}", "jpg": Path(file).read_bytes()})
    shards = sorted(map(str, work.folder.glob("*.tar")))
    augmented = Augmentation(work.colour)
    data = wds.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(1000).to_tuple("jpg").map_tuple(augmented)
    loader = wds.WebLoader(
        data.batched(work.batch_size, partial=False), batch_size=None, num_workers=work.threads, prefetch_factor=4
    )
    for (images,) in loader:
        yield images.numpy() if hasattr(images, "numpy") else images


def streaming(work: Work) -> Iterator[Images]:
    """Local shards, the batch size told, persistent workers."""
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    local, augmented = str(work.folder / "mds"), Augmentation(work.colour)
    with MDSWriter(out=local, columns={"image": "bytes"}) as writer:
        for file in work.files:
            writer.write({"image": Path(file).read_bytes()})

    class Photos(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            return augmented(super().__getitem__(at)["image"])

    data = Photos(local=local, shuffle=True, batch_size=work.batch_size)
    loader = StreamingDataLoader(
        data, work.batch_size, num_workers=work.threads, persistent_workers=True, prefetch_factor=4, drop_last=True
    )
    while True:
        for images in loader:
            yield images.numpy()
