"""What the paper and its authors' logs say of each thing that was changed, all on ImageNet with the full-size network."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Change:
    """How much worse the network was, in points of per cent of top-1 and top-5 error."""

    top1: float | None = None
    """Only its sign is said where `said` is not empty; None if nothing is said of the error in the end."""
    top5: float | None = None
    said: str = ""
    """In place of numbers."""
    source: str = ""

    @property
    def in_words(self) -> tuple[str, str]:
        """Of top-1 and top-5 error, as the source has it; empty for what it does not say."""
        if self.said:
            return self.said, ""
        top1, top5 = ("" if number is None else f"{number:+g}" for number in (self.top1, self.top5))
        return top1, top5


OVERFITTING = "substantial overfitting"
CHANGES = {
    "one_gpu": Change(top1=1.7, top5=1.2, source="paper, 3.2"),
    "no_normalisation": Change(top1=1.4, top5=1.2, source="paper, 3.3"),
    "non_overlapping_pooling": Change(top1=0.4, top5=0.3, source="paper, 3.4"),
    "tanh": Change(said="slower", source="paper, 3.1"),
    "no_crops": Change(top1=1.0, top5=1.0, said=OVERFITTING, source="paper, 4.1"),
    "no_colour_noise": Change(top1=1.0, said="over +1", source="paper, 4.1"),
    "no_dropout": Change(top1=1.0, top5=1.0, said=OVERFITTING, source="paper, 4.2"),
    "no_conv3": Change(top1=2.0, said="about +2", source="paper, 7"),
    "no_conv4": Change(top1=2.0, said="about +2", source="paper, 7"),
    "no_conv5": Change(top1=2.0, said="about +2", source="paper, 7"),
    "no_exchange": Change(top1=1.2, top5=1.1, source="authors' log of #150"),
}
"""By the name of the built-in config that changes original.yaml so."""
