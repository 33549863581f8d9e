"""A classifier: a network, its official preprocessing, and the names of its outputs."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn

from advimg.classifiers.description import check_description
from advimg.classifiers.device import evaluated, failing_as, find_device, repeatable
from advimg.classifiers.own_preprocessing import PreprocessFunction
from advimg.classifiers.preprocessing import Channels, Preprocessing, read_then, shown
from advimg.errors import ClassifierError
from advimg.images.photo import Levels, Photo
from advimg.labels import Labels
from advimg.record import MOST_WORDS, Prediction, View
from advimg.transforms.resampling import Interpolation


@dataclass(frozen=True, eq=False)
class Verdict:
    """The probabilities that a classifier gives a picture.

    Attributes:
        probabilities: softmax of the logits, shape [classes], float64, on the CPU.
        labels: the names of the classes.
    """

    probabilities: Tensor
    labels: Labels

    @property
    def top1(self) -> int:
        """The index of the most probable class."""
        return int(self.probabilities.argmax())

    def confidence(self, index: int) -> float:
        """The softmax confidence of one class, 0..1."""
        return float(self.probabilities[index])

    def top(self, count: int = 5) -> tuple[Prediction, ...]:
        """Return the ``count`` most probable classes (all, if there are fewer), the most probable first."""
        values, indices = self.probabilities.topk(min(count, len(self.labels)))
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return tuple(Prediction(index, self.labels[index], round(value, 6)) for index, value in pairs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Identity:
    """What a record or a plan of attacks says of a classifier; known without its network.

    Attributes:
        name: its name in the record, such as ``resnet50:IMAGENET1K_V1``.
        preprocessing: its official preprocessing.
        labels: one name for each logit.
        weights: the name of the file that was loaded instead of the published weights, if any.
        weights_sha256: of the file of the weights; None where there is none.
        prompt: the sentence with ``{}`` for each label, where the labels are words typed by hand.
    """

    name: str
    preprocessing: Preprocessing
    labels: Labels
    weights: str | None = None
    weights_sha256: str | None = None
    prompt: str | None = None

    @property
    def view(self) -> View:
        """What a record says of how the classifier sees a picture: its preprocessing, and words typed by hand."""
        view: dict[str, Any] = self.preprocessing.to_dict()
        if self.prompt is not None:
            names = self.labels.names
            many = len(names) > MOST_WORDS
            words = (
                {"words_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}
                if many
                else {"words": list(names)}
            )
            view |= {"prompt": self.prompt, **words}
        return cast("View", view)


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Identity):
    """An image classifier as its authors published it; every verdict on a file comes from here.

    A verdict is always that of the network in eval mode and in 32 bits, whatever the caller has set since.

    Attributes:
        network: 32-bit, on ``device``: normalised pictures [n, 3, height, width] to logits [n, classes].
        device: where the network is.
        twin: makes a network that torch can differentiate, where it cannot differentiate ``network``: on ``device``,
            with the same logits up to a constant. Raises ClassifierError where there is none.
    """

    network: nn.Module
    device: torch.device
    twin: Callable[[], nn.Module] | None = None

    @classmethod
    def wrap(
        cls,
        network: nn.Module,
        *,
        labels: Iterable[str],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        resize: int = 256,
        crop: int = 224,
        interpolation: Interpolation = "bilinear",
        squash: bool = False,
        then: str | None = None,
        channels: Channels = "rgb",
        preprocess: PreprocessFunction | None = None,
        name: str | None = None,
        device: str = "auto",
    ) -> Self:
        """Make a classifier of a network.

        The network is put into eval mode and moved to the device; its parameters are not changed.

        A picture is resized, cropped, changed by ``then`` and normalised. Where ``preprocess`` is given, it does all of
        that for every verdict. The other arguments then describe it for the gradient, and they are held against it here
        on a few pictures: they have to agree up to 2 of 255 levels at nearly all pixels.

        Args:
            network: normalised pictures [n, 3, crop, crop] to logits [n, classes], 32-bit.
            labels: the names of the classes, in the order of the logits.
            mean: of each channel, on the scale 0..1, as in training; in the order of ``channels``.
            std: of each channel, on the same scale and in the same order.
            resize: length of the shorter side after the resize.
            crop: width and height of the centre crop.
            interpolation: "bilinear", "bicubic", "lanczos", "box" or "hamming", antialiased; or "nearest".
            squash: whether both sides are resized to ``resize``, whatever the picture's shape.
            then: what happens to the crop before it is normalised, such as "jpeg:75" or "jpeg:85:444+blur:1".
            channels: the order in which the network takes them, "rgb" or "bgr".
            preprocess: the network's own preprocessing, from an RGB PIL picture to normalised floats [3, crop, crop].
            name: its name in the record; by default that of the network's class.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".

        Raises:
            ClassifierError: a value is out of range, the device is not there, or ``preprocess`` fails, depends on
                chance, or is not as it is described.
        """
        preprocessing = Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=interpolation,
            mean=tuple(mean),
            std=tuple(std),
            squash=squash,
            then=None if then is None else read_then(then),
            channels=channels,
            preprocess=preprocess,
        )
        if preprocess is not None:
            check_description(preprocessing)
        place = find_device(device)
        network = network.to(place).eval()
        return cls(
            name=name or type(network).__name__,
            network=network,
            preprocessing=preprocessing,
            labels=Labels(labels),
            device=place,
        )

    def judge_photo(self, photo: Photo) -> Verdict:
        """Return the verdict on a photo, as :meth:`judge` does, unless its resize would need too much memory.

        Raises:
            PhotoError: the photo is too long and thin.
            ClassifierError: as :meth:`judge`.
        """
        self.preprocessing.check_size(*photo.size, source=photo.source)
        return self.judge(photo.levels)

    def judge(self, levels: Levels) -> Verdict:
        """Return the verdict on a picture: official preprocessing, 32-bit, no gradient.

        Args:
            levels: RGB, shape [height, width, 3], uint8.

        Raises:
            ClassifierError: the output is not one finite logit a class, or the preprocessing is a function that fails.
        """
        picture = self.preprocessing.stock(Image.fromarray(levels))
        with evaluated(self.network), torch.inference_mode(), repeatable(self.device, exact=True):
            with self.failing_clearly():
                output = self.network(picture.unsqueeze(0).to(self.device))
            logits = self.checked_logits(output, count=1)[0]
        if not torch.isfinite(logits).all():
            raise self.not_finite()
        return Verdict(torch.softmax(logits.cpu().double(), dim=0), self.labels)

    def failing_clearly(self) -> AbstractContextManager[None]:
        """Turn an error of the network's own code into one line that names the classifier.

        Raises:
            ClassifierError: in the place of any error, unless memory ran out.
        """
        return failing_as(f"{self.name} fails on an input of {shown(self.preprocessing.size)} pixels")

    def not_finite(self) -> ClassifierError:
        """Return the error of a network whose logits are NaN."""
        return ClassifierError(f"{self.name} gives logits that are not finite (NaN); its weights are damaged")

    def checked_logits(self, output: object, *, count: int) -> Tensor:
        """Return a network's output if it is logits [count, classes].

        Raises:
            ClassifierError: it is something else.
        """
        if not isinstance(output, Tensor):
            raise ClassifierError(f"{self.name} does not return logits but a {type(output).__name__}")
        if output.shape != (count, len(self.labels)):
            raise ClassifierError(
                f"{self.name} returns a tensor {list(output.shape)}; {[count, len(self.labels)]} was expected, "
                f"one logit for each of {len(self.labels)} labels"
            )
        return output
