"""Measures a GBNF grammar before llama.cpp gets it: some small grammars make it overflow its stack or compute for minutes.

llama.cpp keeps one stack for every way in which the next character can be reached, so what costs is how many such ways there are
(`ways`) and how many items in a row may be left out (`skips`), not how long the grammar is. Pure.
"""

from __future__ import annotations

import re

import msgspec

MAX_LENGTH = 131_072  # characters
MAX_DEPTH = 128  # brackets
MAX_WAYS = 4096  # to reach the next character
MAX_SKIPS = 64  # items in a row that may be absent
_ROUNDS = 64
_TOKEN = re.compile(
    r'(?P<space>[ \t\r\n]+|#[^\r\n]*)|(?P<rule>[A-Za-z0-9-]+)(?P<assign>[ \t\r\n]*(?:#[^\r\n]*[ \t\r\n]*)*::=)?|'
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<one>\[(?:[^\]\\]|\\.)*\]|\.|!?<[^>]*>)|(?P<mark>[()|])|(?P<repeat>[*+?]|\{[\s0-9,]*\})',
    re.S,
)


class Item(msgspec.Struct):
    """One element of a sequence: a character (`rule` "") or a rule, which may be absent (`least` 0) or come often."""

    rule: str
    empty: bool = False  # a literal without characters
    least: int = 1
    often: bool = False


class Weight(msgspec.Struct, frozen=True):
    """Of a rule: ways to its first character, ways to leave it empty, items skipped on the longest way; `peak`s over all its positions."""

    ways: int = 0
    empty: int = 0
    skips: int = 0
    peak: int = 0
    peak_skips: int = 0


_NOTHING = Weight()
Rules = dict[str, list[list[Item]]]


class _Parser:
    def __init__(self) -> None:
        self.rules: Rules = {}
        self.open: list[str] = []  # the rule being filled and the groups inside it
        self.groups = 0

    def item(self, item: Item) -> str:
        if not self.open:
            return "it does not begin with a rule (name ::= …)"
        self.rules[self.open[-1]][-1].append(item)
        return ""

    def rule(self, name: str, assign: bool) -> str:
        if not assign:
            return self.item(Item(name))
        if len(self.open) > 1:
            return "a bracket is not closed"
        self.open = [name]
        self.rules[name] = [[]]
        return ""

    def mark(self, mark: str) -> str:
        if not self.open:
            return "it does not begin with a rule (name ::= …)"
        if mark == "|":
            self.rules[self.open[-1]].append([])
        elif mark == ")":
            if len(self.open) < 2:
                return "a bracket is closed that was not opened"
            self.open.pop()
        elif len(self.open) > MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} deep"
        else:
            self.groups += 1
            group = f"({self.groups}"  # no rule of the grammar can be called so
            self.item(Item(group))
            self.open.append(group)
            self.rules[group] = [[]]
        return ""

    def repeat(self, text: str) -> str:
        sequence = self.rules[self.open[-1]][-1] if self.open else []
        if not sequence:
            return f"{text[:20]!r} has nothing before it"
        last = sequence[-1]
        least = re.match(r"\{\s*(\d*)", text)
        if text in "*?" or (least is not None and not int((least.group(1) or "0")[:9])):
            last.least = 0
        last.often = last.often or text != "?"
        return ""


def parse(grammar: str) -> Rules | str:
    """The grammar's rules, groups as rules of their own; or what is wrong with it."""
    parser, place = _Parser(), 0
    while place < len(grammar):
        match = _TOKEN.match(grammar, place)
        if match is None:
            return f"it cannot be read at {grammar[place : place + 20]!r}"
        place, kind, text = match.end(), match.lastgroup, match.group()
        wrong = ""
        if match["rule"]:
            wrong = parser.rule(match["rule"], match["assign"] is not None)
        elif kind in ("text", "one"):
            wrong = parser.item(Item("", empty=text == '""'))
        elif kind == "mark":
            wrong = parser.mark(text)
        elif kind == "repeat":
            wrong = parser.repeat(text)
        if wrong:
            return wrong
    return parser.rules if len(parser.open) < 2 else "a bracket is not closed"


def _one(item: Item, weights: dict[str, Weight]) -> Weight:
    inner = weights.get(item.rule, _NOTHING) if item.rule else Weight(ways=0 if item.empty else 1, empty=int(item.empty))
    factor = MAX_WAYS if item.often and inner.empty > 1 else 1  # a repeated thing that can be empty in many ways
    return Weight(inner.ways * factor, inner.empty + (item.least == 0), inner.skips)


def _weigh(alternatives: list[list[Item]], weights: dict[str, Weight]) -> Weight:
    total, empties, skips, peak, peak_skips = 0, 0, 0, 0, 0
    for sequence in alternatives:
        ways, empty, skipped = 0, 1, 0
        for item in reversed(sequence):  # from the right, so that every position is weighed as a start
            one = _one(item, weights)
            ways = min(one.ways + one.empty * ways, MAX_WAYS + 1)
            skipped = one.skips + (1 + skipped if one.empty else 0)
            empty = min(one.empty * empty, MAX_WAYS + 1)
            peak, peak_skips = max(peak, ways), max(peak_skips, min(skipped, MAX_SKIPS + 1))
        total, empties, skips = total + ways, empties + empty, max(skips, min(skipped, MAX_SKIPS + 1))
    return Weight(min(total, MAX_WAYS + 1), min(empties, MAX_WAYS + 1), skips, max(peak, min(total, MAX_WAYS + 1)), peak_skips)


def measure(rules: Rules) -> Weight | None:
    """The heaviest position of all rules; None when the rules lean on each other so much that no end is found."""
    weights: dict[str, Weight] = {}
    names = list(rules)
    for _ in range(_ROUNDS):
        changed = False
        for name in names:
            weight = _weigh(rules[name], weights)
            changed = changed or weights.get(name) != weight
            weights[name] = weight
        if not changed:
            break
        names.reverse()  # so that long chains settle fast in either order of writing
    else:
        return None
    every = weights.values()
    return Weight(peak=max((w.peak for w in every), default=0), peak_skips=max((w.peak_skips for w in every), default=0))


def fault(grammar: str) -> str:
    """Why llama.cpp must not get this grammar, as a clause; "" when it may."""
    if len(grammar) > MAX_LENGTH:
        return f"it has {len(grammar)} characters, more than {MAX_LENGTH}"
    rules = parse(grammar)
    if isinstance(rules, str):
        return rules
    heaviest = measure(rules)
    if heaviest is None:
        return "its rules refer to each other too intricately"
    if heaviest.peak > MAX_WAYS:
        return f"it has more than {MAX_WAYS} ways to go on at one place (is a rule left-recursive?)"
    if heaviest.peak_skips > MAX_SKIPS:
        return f"it has more than {MAX_SKIPS} optional items in a row"
    return ""


_PATTERN = re.compile(r"\\.|\[(?:[^\]\\]|\\.)*\]|\(\?[:=!]|[()|]|[*+?]|\{[0-9, ]*\}|[\^$]|.", re.S)


def pattern_fault(pattern: str) -> str:
    """The same for a JSON schema's regular expression, which llama.cpp turns into a grammar."""
    if len(pattern) > 4096:
        return f"it has {len(pattern)} characters, more than 4096"
    words = ["root ::="]
    for token in _PATTERN.findall(pattern):
        if token in ("^", "$"):
            continue
        if token[:2] == "(?":
            words.append("(")
        elif token in ("(", ")", "|", "*", "+", "?") or (token[0] == "{" and len(token) > 1):
            # A quantifier behind another one only says how greedy the first is.
            words.append("" if token == "?" and words[-1] in ("*", "+", "?") else token)
        else:
            words.append(".")
    return fault(" ".join(words))
