"""What the numbers of an experiment mean, in words that people read: the verdict on each comparison, one headline, the reasons. Pure.

Words say what changed for users ("answers 12 % faster"), by how much at least and at most, and for how many users; p values and alphas
stay in the details.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from routing.experiments.words import Comparison, Design, Estimate, Metric, Outlook, Ratio, Result, Role, Verdict


class _Phrase(NamedTuple):
    """How a change of a metric is said: `{}` is the size. `noun`: what it is called."""

    less: str
    more: str
    noun: str


_PHRASES = {
    "ttft": _Phrase("begins to answer {} sooner", "begins to answer {} later", "the time to the first token"),
    "tpot": _Phrase("writes {} faster", "writes {} slower", "the time per output token"),
    "latency": _Phrase("answers {} faster", "answers {} slower", "the time to the whole answer"),
    "error": _Phrase("fails {} less often", "fails {} more often", "failed requests"),
    "refusal": _Phrase("refuses {} less often", "refuses {} more often", "refusals"),
    "schema_valid": _Phrase("fits the schema {} less often", "fits the schema {} more often", "answers that fit their schema"),
    "fallback": _Phrase("is replaced {} less often", "is replaced {} more often", "answers by another target"),
    "cost": _Phrase("costs {} less", "costs {} more", "the cost of a request"),
    "output_tokens": _Phrase("writes {} fewer tokens", "writes {} more tokens", "output tokens"),
}


def judge(change: Estimate, metric: Metric, role: Role, effect: float, margin: float = 0.0) -> Verdict:
    """What a change means. Better or worse: its interval leaves 0 out; of a guardrail worse only when the harm is surely greater than
    `margin`. Same: the interval lies within `effect` of 0."""
    harm = _harm(change, metric)
    if harm.lo is not None and harm.lo > (margin if role == "guardrail" else 0.0):
        return "worse"
    if harm.hi is not None and harm.hi < 0.0:
        return "better"
    if harm.lo is not None and harm.hi is not None and -effect <= harm.lo and harm.hi <= effect:
        return "same"
    return "unsure"


def words(design: Design, comparison: Comparison) -> str:
    """One comparison as a sentence without its full stop."""
    metric, change, arm = design.metric(comparison.metric), comparison.change, comparison.arm
    phrase = _phrase(metric)
    if change.lo is None and change.hi is None:
        return f"{arm}: too little was seen of {phrase.noun}"
    if comparison.verdict == "same":
        return (
            f"{arm} does not differ from {design.arms[0]} in {phrase.noun} by {percent(design.effect)} or more ({between(metric, change)})"
        )
    if change.hi is None and change.lo is not None:
        if change.lo > 0.0:
            return f"{arm} {phrase.more.format('at least ' + percent(change.lo))}"
        return f"{arm}: too little was seen of {phrase.noun}"
    if comparison.verdict in ("better", "worse"):
        return f"{arm} {said(metric, change.value or 0.0)} ({between(metric, change)})"
    if comparison.role == "guardrail":
        most = _harm(change, metric).hi
        shown = "any harm is less than allowed" if most is not None and most <= _margin(design, comparison.metric) else "no harm shown yet"
        return f"{arm}: {shown} in {phrase.noun} ({between(metric, change)})"
    return f"no difference between {arm} and {design.arms[0]} shown yet in {phrase.noun} ({between(metric, change)})"


def headline(design: Design, result: Result) -> str:
    """The state of the experiment in one sentence."""
    ending = f"; {count(result.units)} {_users(result.units)}"
    if result.ratio is not None and result.ratio.bad:
        return f"Do not trust this yet: users are not split as they should be ({_split(result.ratio)}){ending}."
    if result.status in ("promoted", "rolled_back"):
        return _ended(design, result) + ending + "."
    hurt = [c for c in result.comparisons if c.role == "guardrail" and c.verdict == "worse"]
    if hurt:
        return f"{words(design, hurt[0])}: a guardrail is hurt{ending}."
    primary = [c for c in result.comparisons if c.role == "primary"]
    won = [c for c in primary if c.arm == result.winner]
    if won:
        return f"{words(design, won[0])}{ending}."
    if primary and all(c.verdict == "worse" for c in primary):
        return f"{design.arms[0]} is best: {'; '.join(words(design, c) for c in primary)}{ending}."
    if primary and all(c.verdict in ("same", "worse") for c in primary):
        return f"No arm is better than {design.arms[0]}: {'; '.join(words(design, c) for c in primary)}{ending}."
    return _early(design, result, primary) + ending + "."


def reasons(design: Design, result: Result) -> list[str]:
    """Why the headline is what it is, and what else there is to know: one sentence each."""
    out = []
    if result.ratio is not None and result.ratio.bad:
        out.append(
            f"Users should be split {_listed(result.ratio.expected)} and are split {_listed(result.ratio.seen)}. Something loses users of "
            "one arm (failures, a cache, a filter); until it is found no comparison counts."
        )
    ranked = sorted(result.comparisons, key=lambda c: ("primary", "guardrail", "secondary").index(c.role))
    out += [_reason(design, c) for c in ranked]
    if any(c.cuped >= 0.05 for c in result.comparisons):
        most = max(c.cuped for c in result.comparisons)
        out.append(f"What was seen of users before the experiment took away up to {percent(most)} of the noise.")
    if result.crossed:
        one = result.crossed == 1
        out.append(
            f"{count(result.crossed)} {'user' if one else 'users'} came to more than one arm and {'counts' if one else 'count'} for none."
        )
    if design.mode == "bandit" and result.units:
        out.append(
            "A bandit's shares follow its results, so that a difference told here can be off where traffic changes from day to day; run a "
            "test to learn how large it is."
        )
    out += _forecast(design, result)
    return out


def said(metric: Metric, change: float) -> str:
    """A relative change as a verb phrase: "answers 12 % faster"."""
    phrase = _phrase(metric)
    return (phrase.more if change > 0.0 else phrase.less).format(percent(abs(change)))


def between(metric: Metric, change: Estimate) -> str:
    """An interval in words: "between 8 % and 15 %" where both ends are on one side, else with their directions."""
    if change.lo is None or change.hi is None:
        return "not known how much" if change.lo is None else f"at least {signed(change.lo)}"
    if change.lo > 0.0 or change.hi < 0.0:
        low, high = sorted((abs(change.lo), abs(change.hi)))
        return f"between {percent(low)} and {percent(high)}"
    return f"between {signed(change.lo)} and {signed(change.hi)}"


def percent(share: float) -> str:
    """0.1234 as "12 %": two digits that count, a third from 100 %; no more than needed."""
    number = abs(share) * 100.0
    if number >= 99.5:
        text = f"{number:,.0f}"
    elif number >= 9.95:
        text = f"{number:.0f}"
    elif number >= 0.995:
        text = f"{number:.1f}"
    else:
        text = f"{number:.1g}" if number >= 0.001 else "0"
    return ("-" if share < 0.0 and text != "0" else "") + (text.removesuffix(".0") if "." in text else text) + " %"


def signed(share: float) -> str:
    """As `percent`, always with its sign."""
    text = percent(share)
    return text if text.startswith("-") or text == "0 %" else "+" + text


def count(number: int) -> str:
    """4310 as "4,310"."""
    return f"{number:,}"


def _harm(change: Estimate, metric: Metric) -> Estimate:
    """The change with its sign turned so that more is worse."""
    if metric.better == "lower":
        return change
    return Estimate(*(None if x is None else -x for x in (change.value, change.hi, change.lo)))


def _margin(design: Design, metric: str) -> float:
    return next((guard.margin for guard in design.guardrails if guard.metric == metric), 0.0)


def _phrase(metric: Metric) -> _Phrase:
    known = _PHRASES.get(metric.name)
    if known is not None:
        return known
    noun = metric.label or metric.name
    if metric.kind == "boolean":
        return _Phrase(f"is rated {_safe(noun)} {{}} less often", f"is rated {_safe(noun)} {{}} more often", noun)
    return _Phrase(f"has {{}} less of {_safe(noun)}", f"has {{}} more of {_safe(noun)}", noun)


def _safe(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _reason(design: Design, comparison: Comparison) -> str:
    text = words(design, comparison)
    if comparison.role == "secondary" and comparison.verdict in ("better", "worse"):
        return f"{text}. This was looked at beside the main question: take it as a hint."
    if comparison.role == "guardrail":
        margin = _margin(design, comparison.metric)
        if comparison.verdict == "worse":
            return f"{text}. That is more harm than the guardrail allows ({percent(margin)})."
    primary = comparison.role == "primary" and comparison.verdict == "better"
    if primary and comparison.change.value is not None and abs(comparison.change.value) < design.effect:
        return f"{text}. That is less than the {percent(design.effect)} that matter here."
    return text + "."


def _early(design: Design, result: Result, primary: Sequence[Comparison]) -> str:
    better = [c for c in primary if c.verdict == "better"]
    if better:
        return words(design, better[0])
    if len(design.arms) == 1:
        return f"Nothing is compared with {design.arms[0]} but what it mirrors" + "".join(
            f"; {count(shadow.pairs)} {'answer' if shadow.pairs == 1 else 'answers'} by {shadow.arm}" for shadow in result.shadows
        )
    least = min((arm.units for arm in result.arms), default=0)
    if least < design.least:
        return f"Too early to say: every arm needs at least {count(design.least)} users, and one has {count(least)}"
    seen = [c for c in primary if c.change.lo is not None and c.change.hi is not None]
    if not seen:
        return f"Too early to say: too little was seen of {_phrase(design.metric(design.primary)).noun}"
    return f"Too early to say: {words(design, seen[0])}{_wait(result.outlook)}"


def _wait(outlook: Outlook) -> str:
    if outlook.days is None or outlook.days <= 0.0:
        return ""
    return f"; about {_days(outlook.days)} to go"


def _forecast(design: Design, result: Result) -> list[str]:
    outlook, out = result.outlook, []
    if outlook.needed is not None and outlook.needed > result.units:
        text = f"To find a change of {percent(design.effect)}, about {count(outlook.needed)} users are needed"
        if outlook.days is not None and outlook.days > 0.0:
            text += f": about {_days(outlook.days)} more at the present rate"
        out.append(text + ".")
    if outlook.detectable is not None and result.winner is None:
        out.append(f"With the users seen so far a change of about {percent(outlook.detectable)} or more would show.")
    return out


def _days(days: float) -> str:
    if days < 1.5:
        hours = max(1, round(days * 24))
        return f"{hours} hour{'s' if hours > 1 else ''}"
    return f"{count(round(days))} days"


def _ended(design: Design, result: Result) -> str:
    primary = [c for c in result.comparisons if c.role == "primary" and c.change.value is not None]
    if result.status == "rolled_back":
        hurt = [c for c in result.comparisons if c.role == "guardrail" and c.verdict == "worse"]
        why = f": {words(design, hurt[0])}" if hurt else ""
        return f"Rolled back to {design.arms[0]}{why}"
    if result.winner is None:
        return "Promoted"
    said_of = [words(design, c) for c in primary if c.arm == result.winner]
    return f"{result.winner} was promoted" + (f": {said_of[0]}" if said_of else "")


def _split(ratio: Ratio) -> str:
    return f"{_listed(ratio.seen)} instead of {_listed(ratio.expected)}"


def _listed(numbers: Mapping[str, float]) -> str:
    return " / ".join(count(round(number)) for number in numbers.values())


def _users(number: int) -> str:
    return "user" if number == 1 else "users"
