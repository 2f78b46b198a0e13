"""From what a user calls a model to the forms that it has or can be given: its file, others of the same model beside it, quantisations that
can be made of it, or what the hub has. Blocks on the disk, for `hf:` also on the network.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from backends.engines.gguf import GgufError
from quant import builtin, fit_card, fit_hub, hub, label, models
from quant.fit import MAX_CARDS, Candidate
from quant.fit_card import Card
from quant.ggml import GgmlError
from quant.mixes import MIXES, MixError
from quant.quantize import facts
from quant.tensors import TensorError, load

SOURCES = frozenset({"F32", "F16", "BF16"})  # what smaller copies are made of
MAX_BESIDE = 32


class FindError(ValueError):
    """Why nothing is known of a model. `str()` is one sentence."""


def candidates(model: str) -> list[Candidate]:
    """Every form of `model`: a file, `builtin`, a name of `pointsman ls`, or `hf:OWNER/NAME[:QUANT]`. The one that was named comes first.
    Raises `FindError`."""
    try:
        if model == "builtin":
            return _here(builtin.path())
        try:
            found = models.find(model)
        except models.ModelError:
            if not model.startswith("hf:"):
                raise
            return fit_hub.candidates(model)
        if found.fault:
            raise FindError(f"{found.name} cannot be used: {found.fault.rstrip('.')}.")
        return _here(found.path)
    except (models.ModelError, hub.HubError, GgufError, TensorError, GgmlError) as error:
        raise FindError(str(error)) from None


def _here(path: Path) -> list[Candidate]:
    card = _named(fit_card.load(path), path)
    found = [Candidate(card, "here", _kld(path), str(path))]
    found += [Candidate(other, "here", _kld(place), str(place)) for place, other in _beside(path, card)]
    if card.quant in SOURCES and len(fit_card.parts(path)) == 1:
        known = {each.card.quant for each in found}
        found += [Candidate(made, "make", None, str(path)) for made in _made(card, path) if made.quant not in known]
    return found[:MAX_CARDS]


def _named(card: Card, path: Path) -> Card:
    """The card with the kind that the file's name tells, where its header does not."""
    return card if card.quant else msgspec.structs.replace(card, quant=hub.quant_of(path.name))


def _kld(path: Path) -> float | None:
    """The divergence that was measured for this very file."""
    known = label.label(path)
    return known.kld.value if known is not None and known.kld is not None else None


def _beside(path: Path, card: Card) -> list[tuple[Path, Card]]:
    """Other quantisations of the same model in the same folder, by name and by shape."""
    kind = hub.quant_of(path.name)
    if not kind:
        return []
    stem = path.name[: path.name.upper().find(kind)]
    found = []
    names = sorted(each for each in path.parent.glob("*.gguf") if stem and each.name.startswith(stem) and each != path)
    for place in names[:MAX_BESIDE]:
        if not hub.quant_of(place.name) or len(fit_card.parts(place)) > 1:
            continue
        try:
            other = _named(fit_card.load(place), place)
        except (GgufError, TensorError):
            continue
        if (other.parameters, other.layers) == (card.parameters, card.layers):
            found.append((place, other))
    return found


def _made(card: Card, path: Path) -> list[Card]:
    """What `pointsman quant quantize` could make of it."""
    source = load(path)
    made = []
    for kind in MIXES:
        try:
            made.append(fit_card.as_kind(card, source, kind, facts(source)))
        except MixError:
            continue
    return made
