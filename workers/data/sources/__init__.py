"""Where images come from: one file per kind of source.

A source lists its images once, in the driver. Its chunks carry all that is needed to read them, so that a source sent
to a worker need not carry the list of a million files. Archives are read where they lie: nothing is unpacked.
"""

from workers.data.sources.cifar10 import Cifar10Source
from workers.data.sources.folder import FolderSource
from workers.data.sources.imagenet import ImageNetSource
from workers.data.sources.imagenette import ImagenetteSource
from workers.data.sources.items import Chunk, SourceItem
from workers.data.sources.parquet import ParquetSource
from workers.data.sources.tiny_imagenet import TinyImageNetSource

__all__ = [
    "Chunk",
    "Cifar10Source",
    "FolderSource",
    "ImageNetSource",
    "ImagenetteSource",
    "ParquetSource",
    "SourceItem",
    "TinyImageNetSource",
]
