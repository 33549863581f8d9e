"""The gradient network: a private copy of a classifier's network that the attack differentiates.

It never gives a verdict. It is frozen, fused where that is possible (:mod:`advimg.classifiers.gradient.fuse`), and
computes in bfloat16 where that is faster. Its logits are those of the classifier; the derivatives of its ReLUs can be
softened (:mod:`advimg.classifiers.gradient.soft_relu`). A form that fails the trial
(:mod:`advimg.classifiers.gradient.trial`) is not used.
"""

import copy
import threading
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import (
    differentiable,
    evaluated,
    is_out_of_memory,
    repeatable,
    takes_channels_last,
)
from advimg.classifiers.gradient.fuse import copies
from advimg.classifiers.gradient.soft_relu import Softness, Values, soften
from advimg.classifiers.gradient.trial import Trial
from advimg.errors import ClassifierError, UsageError, first_line
from advimg.settings import Precision

Kind = Literal["fp32", "bf16"]


class GradientNetwork:
    """Maps float levels, resized and cropped, to logits that can be differentiated.

    What is slow to make is kept as long as the classifier, and shared by all gradient networks of its.

    Attributes:
        precision: "fp32" or "bf16"; "auto" is bf16 on GPUs with tensor cores, if the network takes it, else fp32.
        reason: why "auto" is not what it would be, for a person; None if it is.

    Raises:
        UsageError: an unknown precision.
        ClassifierError: the classifier's network fails, its output is not one finite logit a class, or it cannot be
            differentiated; or bf16 is asked for, and the network does not take it.
    """

    def __init__(self, classifier: Classifier, precision: Precision = "auto") -> None:
        self._classifier = classifier
        self.precision, self.reason = _resolve(precision, classifier.device), None
        try:
            self._form = _kept_form(classifier, self.precision)
        except _Bf16Error as error:
            if precision != "auto":
                raise
            self.precision, self.reason = "fp32", f"fp32: {error}"
            self._form = _kept_form(classifier, self.precision)

    def in_bf16(self) -> "GradientNetwork":
        """Return one that computes in bfloat16.

        Raises:
            ClassifierError: the network does not take it.
        """
        return GradientNetwork(self._classifier, "bf16")

    def logits(self, seen: Tensor, softness: Values = ()) -> Tensor:
        """Return logits [n, classes], float32.

        Args:
            seen: float levels 0..255, [n, 3, height, width].
            softness: of the derivative of ReLU for each picture, deep in the network and before; the derivative is the
                true one where it is 0 or left out. Logits do not depend on it.

        Raises:
            ClassifierError: the network fails, or the output is not logits.
        """
        form = self._form
        pictures = self._classifier.preprocessing.normalise(seen)
        pictures = pictures.to(dtype=_DTYPES[self.precision], memory_format=form.layout)
        with form.softness.during(softness), self._classifier.failing_clearly():
            output = form.network(pictures)
        return self._classifier.checked_logits(output, count=len(seen)).to(torch.float32)


@dataclass(frozen=True, eq=False, slots=True)
class _Form:
    """A network in the form in which it is differentiated.

    Attributes:
        network: frozen, in eval mode.
        layout: the memory layout of its inputs.
        softness: of its ReLUs.
        trial: what it has passed; None if memory was too short for one.
    """

    network: nn.Module
    layout: torch.memory_format
    softness: Softness
    trial: Trial | None


class _Bf16Error(ClassifierError):
    """A network cannot be computed in bfloat16."""


_FORMS: WeakKeyDictionary[Classifier, tuple[Hashable, dict[Kind, _Form]]] = WeakKeyDictionary()
_FORMS_LOCK = threading.RLock()


def _kept_form(classifier: Classifier, precision: Kind) -> _Form:
    """Return a classifier's form, made anew only if its network has changed since."""
    # In this order: where the first is a lock, a thread that attacks holds it when it comes here.
    with differentiable(), repeatable(classifier.device, exact=True), _FORMS_LOCK:  # TF32 would fail the trial
        present = _fingerprint(classifier.network)
        known, forms = _FORMS.get(classifier, (None, {}))
        if known != present:
            forms = {}
            _FORMS[classifier] = present, forms
        form = forms.get("fp32") or _made(classifier)
        if form.trial is not None:  # else there may be more memory the next time
            forms["fp32"] = form
        if precision == "bf16":
            form = forms[precision] = forms.get(precision) or _lowered(classifier, form)
        return form


def _fingerprint(network: nn.Module) -> Hashable:
    """Return what changes with a network: its modules and their hooks, and each tensor's place, version and sum."""
    modules = tuple((id(each), len(each._forward_hooks), len(each._forward_pre_hooks)) for each in network.modules())
    tensors = [*network.parameters(), *network.buffers()]
    places = tuple((tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in tensors)
    # A change through ``.data`` leaves the version.
    with torch.no_grad():
        sums = [str(tensor.sum(dtype=torch.float32).item()) for tensor in tensors]  # as text, because NaN is not NaN
    return modules, places, tuple(sums)


def _made(classifier: Classifier) -> _Form:
    """Return the quickest form that passes the trial; a plain copy if none does, as where the network is random."""
    network = classifier.network if classifier.twin is None else classifier.twin()
    try:
        trial = Trial.of(classifier, network)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        trial = None
    with evaluated(network), classifier.failing_clearly():
        for softened, candidate in _candidates(network) if trial else ():
            candidate.requires_grad_(False).eval()
            softness = soften(candidate, max(classifier.preprocessing.size)) if softened else Softness(0)
            for layout in _layouts(candidate):
                form = _Form(candidate.to(memory_format=layout), layout, softness, trial)
                if _passes(form, softened=softened):
                    return form
        plain = copy.deepcopy(network).requires_grad_(False).eval()
    return _Form(plain, torch.contiguous_format, Softness(0), trial)


def _candidates(network: nn.Module) -> Iterator[tuple[bool, nn.Module]]:
    """Yield copies of a network, the quickest first, each with whether its ReLUs are to be softened."""
    for softened in (True, False):
        for candidate in copies(network):
            yield softened, candidate


def _layouts(network: nn.Module) -> list[torch.memory_format]:
    """Return the memory layouts that a network may have, the best for convolutions first.

    Not all take it: ``x.view(x.size(0), -1)`` does not.
    """
    both = [torch.channels_last, torch.contiguous_format]
    return both if takes_channels_last(network) else both[1:]


def _passes(form: _Form, *, softened: bool) -> bool:
    """Tell whether a form passes its trial; where its ReLUs can be soft, both as they are soft and as they are not."""
    assert form.trial is not None
    with form.softness.during([(0.0, 0.0)], always=True):
        if not form.trial.passes(form.network, form.layout):
            return False
    return not softened or form.trial.passes_forward(form.network, form.layout)


def _lowered(classifier: Classifier, form: _Form) -> _Form:
    """Return a form in bfloat16.

    Raises:
        ClassifierError: an operation is not possible in it, or its result is not finite.
    """
    network, softness = copy.deepcopy((form.network, form.softness))
    low = _Form(network.to(torch.bfloat16), form.layout, softness, form.trial)
    if low.trial is None:
        return low
    try:
        with low.softness.during([(0.0, 0.0)], always=True):
            logits, gradient = low.trial.run(low.network, low.layout, torch.bfloat16)
    except Exception as error:  # the code of other people, in a precision that it may not know
        if is_out_of_memory(error):
            raise
        raise _no_bf16(classifier, first_line(error)) from error
    if not (torch.isfinite(logits).all() and torch.isfinite(gradient).all()):
        raise _no_bf16(classifier, "its logits or gradients are not finite")
    return low


def _no_bf16(classifier: Classifier, reason: str) -> _Bf16Error:
    return _Bf16Error(f"{classifier.name} cannot be computed in bf16 ({reason}); use --precision fp32")


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _resolve(precision: Precision, device: torch.device) -> Kind:
    if precision not in get_args(Precision):
        raise UsageError(f"unknown precision {precision!r}; use {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision
    # On CPUs the gain depends on the network as much as on the processor: it is measured on the first pictures.
    has_tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if has_tensor_cores else "fp32"
