"""Features of images: what the classifier sees, the outputs of the last hidden layer. Shape suffixes: B images, D units."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.geometry import layers

if TYPE_CHECKING:
    from cluster.network import LoadedNetwork


class LastHidden:
    """Use as a context manager; call it with whole stored images uint8 [B, S, S, 3], of which it sees the centre.

    Gives float32 [B, D] in the testing form: all units, of all columns, side by side. With dropout they are scaled there, all by
    the same number, which changes no order of distances.
    """

    def __init__(self, loaded: "LoadedNetwork") -> None:
        self._loaded = loaded
        self._taken: Any = None

    def __enter__(self) -> "LastHidden":
        classifier = self._loaded.model.parts[layers(self._loaded.network)[-1].name]
        self._hook = classifier.register_forward_pre_hook(self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def __call__(self, images_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._loaded.probabilities(images_BSSC, 1)
        features: NDArray[np.float32] = self._taken.float().cpu().numpy()
        return features

    def _take(self, module: Any, inputs: tuple[Any, ...]) -> None:
        self._taken = inputs[0].detach()
