"""A network whose classes are words typed by hand: CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) and their kin.

They place pictures and sentences in one space of features. A word's logit is the cosine between the features of the
picture and those of a sentence with the word, times a learnt scale; SigLIP adds a learnt bias. The words are the same
in a whole attack, so that their features are computed once, when the network is made.

SigLIP was trained to say of each word by itself whether it fits: its own scores are sigmoids of the logits. The most
likely word is the same either way. The confidences of a record are softmax over the words, as for all classifiers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from advimg.classifiers.device import is_out_of_memory
from advimg.errors import ClassifierError
from advimg.labels import Labels

_AT_ONCE = 64
"""How many sentences share a pass through the text network."""
_CHECKED = 8
"""How many words are held against the model."""
_TOLERANCE = 1e-4
"""Of the largest logit: what the order of sums in 32 bits makes of it, many times over."""


class WordNetwork(nn.Module):
    """Maps normalised pictures [n, 3, height, width] to a logit for each word, [n, words].

    Args:
        image: maps pictures to features [n, features].
        words: the features of the words, of length 1, [words, features].
        scale: of the cosines, one number.
        bias: added to all logits, one number.
    """

    words: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, image: nn.Module, words: Tensor, *, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.image = image
        self.register_buffer("words", words.detach().clone())
        self.register_buffer("scale", scale.detach().float().reshape(()).clone())
        self.register_buffer("bias", torch.zeros(()) if bias is None else bias.detach().float().reshape(()).clone())

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits [n, words]."""
        features = normalize(self.image(pictures), dim=-1)
        return self.scale * (features @ self.words.T) + self.bias


def features_of(sentences: Sequence[str], encode: Callable[[Sequence[str]], Tensor], *, name: str) -> Tensor:
    """Return the features of sentences, of length 1, [sentences, features].

    Args:
        sentences: one for each word.
        encode: returns the features of a few sentences, [sentences, features].
        name: of the model, for messages.

    Raises:
        ClassifierError: memory runs out, or the features are not finite.
    """
    try:
        with torch.no_grad():
            parts = [
                normalize(encode(sentences[start : start + _AT_ONCE]).float(), dim=-1)
                for start in range(0, len(sentences), _AT_ONCE)
            ]
            features = torch.cat(parts)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ClassifierError(f"{name}: {len(sentences):,} words need more memory than there is; give fewer") from error
    if not torch.isfinite(features).all():
        raise ClassifierError(f"{name} gives features of words that are not finite (NaN); its weights are damaged")
    return features


def sentences_of(words: Labels, prompt: str) -> list[str]:
    """Return the sentence for each word.

    Args:
        words: as they were typed.
        prompt: with ``{}`` in the place of the word.
    """
    return [prompt.replace("{}", word) for word in words.names]


@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """What a model itself says of a few words in two pictures of noise.

    Attributes:
        pictures: normalised, [2, 3, height, width].
        logits: for each few-th word, [2, words].
        step: how many words lie between two of them.
    """

    pictures: Tensor
    logits: Tensor
    step: int

    @classmethod
    def of(
        cls, official: Callable[[Tensor, Sequence[str]], Tensor], sentences: Sequence[str], *, size: tuple[int, int]
    ) -> Self:
        """Ask a model as it was published.

        Args:
            official: from pictures and sentences to logits [pictures, sentences].
            sentences: one for each word; a few of them are asked about.
            size: width and height of its pictures.
        """
        step = -(-len(sentences) // _CHECKED)
        width, height = size
        pictures = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return cls(pictures, official(pictures, sentences[::step]).float(), step)

    def check(self, network: WordNetwork, *, name: str) -> None:
        """Hold a network against the model that it was made of; what the model itself says is the verdict.

        Args:
            network: in eval mode.
            name: of the model, for messages.

        Raises:
            ClassifierError: the logits are others.
        """
        with torch.no_grad():
            given = network(self.pictures)[:, :: self.step]
        if given.shape != self.logits.shape:
            raise ClassifierError(
                f"{name} cannot be used: it gives {list(self.logits.shape)} logits, {list(given.shape)} were expected"
            )
        apart = float((given - self.logits).abs().max())
        if not apart <= _TOLERANCE * float(self.logits.abs().max()):
            raise ClassifierError(
                f"{name} cannot be used: its logits are not scaled cosines of features of picture and words; they "
                f"differ by {apart:.2g}"
            )
