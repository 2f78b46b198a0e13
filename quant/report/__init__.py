"""The report of an evaluation: one HTML file that needs nothing else, no network, no fonts, no script. Pure but for a style sheet of
our own that is read at import.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from quant.evaluate import GOOD_KLD, LEAST_BITS, Evaluation, Measured
from quant.evaluate_figures import Estimate, Scores
from quant.label import kld_text, share_text
from quant.report.chart import Point, plot
from quant.report.markup import Markup, join, tag

STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'"
)
# Mean KLD in nats, below which the word holds: what is usually said of llama.cpp's quantisations (Q6_K, Q4_K_M, Q3_K_M, Q2_K).
BANDS = ((0.01, "negligible"), (0.05, "small"), (0.15, "moderate"), (0.5, "large"))


def page(found: Evaluation) -> str:
    """One evaluation's page. Whatever stands in names and sentences is shown as text; the exact numbers are in `#evaluation` (JSON)."""
    head = join(
        Markup('<meta charset="utf-8">'),
        Markup(tag("meta", http_equiv="content-security-policy", content=POLICY).removesuffix("</meta>")),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'),
        tag("title", f"Quality of {_of(found)}"),
        Markup(f"<style>{STYLE}</style>"),
    )
    main = tag("main", _top(found), _plots(found), _table(found), _own(found), _failed(found), _method(found), tag("footer", "Pointsman"))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{main}{_exact(found)}</body></html>\n'


def _exact(found: Evaluation) -> Markup:
    """The whole evaluation as JSON in the page. Nothing in it can end the element."""
    text = msgspec.json.encode(found).decode()
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json" id="evaluation">{text}</script>')


def _of(found: Evaluation) -> str:
    return found.source.name if found.source else ", ".join(model.name for model in found.models)


def _section(name: str, title: str, *children: Markup | None) -> Markup:
    return tag("section", tag("h2", title, id=f"h-{name}"), *children, id=name, aria_labelledby=f"h-{name}")


def _shown(found: Evaluation) -> list[tuple[int, Measured]]:
    """The models that were measured with their numbers, the smallest first, and the source as the last."""
    models = sorted((model for model in found.models if not model.failed), key=lambda model: model.of.bytes)
    return list(enumerate([*models, *([found.source] if found.source else [])], 1))


def _kind(model: Measured) -> str:
    return model.kind or model.name


def _top(found: Evaluation) -> Markup:
    on = next((model.scores for model in found.models if model.scores), None)
    best = next((model for model in found.models if model.path == found.recommended), None)
    title = f"Take {_kind(best)}" if best else "None of them is recommended" if found.why else f"Quality of {_of(found)}"
    facts = [f"{on.texts} texts, {on.tokens} tokens" if on else None, found.engine, found.date[:10]]
    if best and best.scores and best.scores.kld and best.scores.same:
        smaller = f", {best.of.bytes / found.source.of.bytes:.0%} of its size".replace("%", " %") if found.source else ""
        facts.insert(0, f"{share_text(best.scores.same.value)} same first choice as the source{smaller}")
    return tag(
        "header",
        tag("p", "How far quantised models are from ", tag("b", _of(found)), class_="crumb"),
        tag("h1", title),
        tag("p", found.why, class_="why") if found.why else None,
        tag("div", *(tag("span", fact, class_="chip") for fact in facts if fact), class_="chips"),
        class_="top",
    )


def _plots(found: Evaluation) -> Markup | None:
    sizes, speeds = [], []
    for number, model in _shown(found):
        source = found.source is not None and model.path == found.source.path
        kld = Estimate(0.0) if source else model.scores.kld if model.scores else None
        if kld is None:
            continue
        kind = "source" if source else "best" if model.path == found.recommended else ""
        speed = f", {model.speed.writing:.0f} tokens/s" if model.speed else ""
        said = f"{number} {_kind(model)}: {size(model.of.bytes)}, " + ("the source" if source else f"KLD {_estimate(kld)}") + speed
        name = "source" if source else _kind(model)
        sizes.append(Point(number, name, model.of.bytes, kld.value, kld.low, kld.high, said, kind))
        if model.speed:
            speeds.append(Point(number, name, model.speed.writing, kld.value, kld.low, kld.high, said, kind))
    if len(sizes) < 2:
        return None
    unit = float(1 << 30 if max(point.x for point in sizes) >= 1 << 30 else 1 << 20)
    plots = [plot(sizes, GOOD_KLD, size, "← smaller: size of the file", unit)]
    if len(speeds) > 1:
        plots.append(plot(speeds, GOOD_KLD, lambda value: f"{value:g}", "tokens a second on this machine: faster →"))
    said = (
        f"The ringed point is the recommended one. Tinted: a KLD below {GOOD_KLD:g}, hardly any difference. Vertical bars: 95 % intervals."
    )
    legend = tag("p", said, class_="note")
    return _section("plots", "Size and speed against quality", tag("div", *plots, class_="panels"), legend)


def _table(found: Evaluation) -> Markup:
    titles = (
        ("", "model"), ("", "size"), ("bits a weight, whole file", "bits"), ("distance of distributions, nats a token", "KLD"),
        ("", "loss of quality"), ("tokens where both have the same first choice", "same first choice"),
        ("tokens where just one of both has the text's own token first", "flips"), ("", "perplexity"),
        ("by the source's perplexity", "ratio"), ("99 % of tokens have less", "KLD, 99 %"), ("small questions", "answered rightly"),
        ("one request alone", "tokens/s"),
    )  # fmt: skip
    heads = [tag("th", title, scope="col", title=hint or None) for hint, title in titles]
    rows = [_row(found, number, model) for number, model in _shown(found)]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return _section("table", "All figures", tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="All figures"))


def _row(found: Evaluation, number: int, model: Measured) -> Markup:
    on, best = model.scores, model.path == found.recommended
    source = found.source is not None and model.path == found.source.path
    role = tag("span", "source", class_="role") if source else tag("span", "recommended", class_="role best") if best else None
    tasks = model.tasks
    cells = [
        _plain(size(model.of.bytes)), _plain(f"{model.bits:.2f}" if model.bits else "–"), _ranged(on.kld if on else None, kld_text),
        tag("td", _verdict(on)), _ranged(on.same if on else None, share_text), _ranged(on.flips if on else None, share_text),
        _ranged(on.perplexity if on else None, "{:.4g}".format), _ranged(on.ratio if on else None, "{:.3f}".format),
        _plain(kld_text(on.kld_99) if on and on.kld_99 is not None else "–"),
        tag("td", f"{round(tasks.right.value * tasks.asked)} of {tasks.asked}",
            tag("small", f"{round(tasks.flips.value * tasks.asked)} changed") if tasks.flips else None) if tasks else _plain("–"),
        _plain(f"{model.speed.writing:.0f}" if model.speed else "–"),
    ]  # fmt: skip
    name = tag("th", tag("b", f"{number} ", class_="index"), _kind(model), role, tag("small", model.name), scope="row")
    return tag("tr", name, *cells, class_="best" if best else None)


def _plain(text: str) -> Markup:
    return tag("td", text)


def _ranged(estimate: Estimate | None, shown: Callable[[float], str]) -> Markup:
    if estimate is None:
        return _plain("–")
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return _plain(shown(estimate.value))
    return tag("td", shown(estimate.value), tag("small", f"{shown(estimate.low)} to {shown(estimate.high)}"))


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return kld_text(estimate.value)
    return f"{kld_text(estimate.value)} ({kld_text(estimate.low)} to {kld_text(estimate.high)})"


def _verdict(on: Scores | None) -> Markup | None:
    if on is None or on.kld is None:
        return None
    word = next((word for most, word in BANDS if on.kld.value < most), "severe")
    return tag("span", word, class_=f"chip {word}")


def _own(found: Evaluation) -> Markup | None:
    """What was measured on the user's own prompts."""
    rows = [
        tag("tr", tag("th", tag("b", f"{number} ", class_="index"), _kind(model), scope="row"), _ranged(on.kld, kld_text),
            _ranged(on.same, share_text), _plain(kld_text(on.kld_99) if on.kld_99 is not None else "–"), _plain(str(on.tokens)))
        for number, model in _shown(found) if (on := model.prompts) is not None and on.kld is not None
    ]  # fmt: skip
    if not rows:
        return None
    heads = tag("tr", *(tag("th", title, scope="col") for title in ("model", "KLD", "same first choice", "KLD, 99 %", "tokens")))
    note = f"{found.own_count} prompts, with what the source goes on to write. Only figures of them are kept."
    return _section(
        "own", "On your own prompts", tag("div", tag("table", tag("thead", heads), tag("tbody", *rows)), class_="scroll"),
        tag("p", note, class_="note"),
    )  # fmt: skip


def _failed(found: Evaluation) -> Markup | None:
    failed = [tag("li", tag("b", model.name), ": ", model.failed) for model in found.models if model.failed]
    return _section("failed", "Not measured", tag("ul", *failed)) if failed else None


def _method(found: Evaluation) -> Markup:
    sentences = [
        "Both models read the same tokens, one model's distribution over the whole vocabulary beside the other's. KLD is the mean of "
        "KL(source ‖ model); a file that computes the same as its source has 0.",
        "Tokens of one text are alike, so the 95 % intervals take each text as one draw (ratio of sums over clusters, Student's t). "
        "Perplexity is of these texts alone: compare it only between models of this table.",
        f"The recommended model is the smallest with a KLD below {GOOD_KLD:g}; memory that is left is better spent on context. Files below "
        f"{LEAST_BITS:g} bits a weight are left out unless an importance matrix went into them.",
        f"Tokens a second: the best of three rounds of one request alone; threads: {found.threads}. Other work makes it less.",
        f"Texts {found.texts}" + (f", prompts {found.own}" if found.own else "") + f"; {found.engine}; {found.date}.",
        *found.notes,
    ]
    if found.source:
        sentences.append(f"Source: {found.source.name}, {found.source.kind}, SHA-256 {found.source.of.sha256}.")
    return _section("method", "How this was made", *(tag("p", sentence) for sentence in sentences))


def size(value: float) -> str:
    """Bytes for people. Pure."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1024:.3g} KiB"
