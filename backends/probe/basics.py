"""Checks of what every call has: roles, ends, usage, limits, errors. Each is one small question and a judgement of the answer."""

from __future__ import annotations

from backends import wire
from backends.probe.ask import Asker, Heard
from backends.probe.types import Absent, Check, Outcome, Refused, Unclear, failed, passed, unshown
from backends.types import Timeouts

HI = "Say hello in one short sentence."
LARGEST = 262_144  # tokens: a longer context is not overflowed on purpose, that takes megabytes
_END = frozenset({"stop", "length"})


async def _whole(ask: Asker) -> Outcome:
    heard = await ask.say(HI, max_tokens=16)
    message = heard.message
    thinks = heard.finishes == ["length"] and heard.count("completion_tokens") > 0  # and had no room to say anything
    if message.get("role") != "assistant" or not (heard.text or heard.thought or thinks):
        return failed(f"the message is {_short(message)}")
    if len(heard.finishes) != 1 or heard.finishes[0] not in _END:
        return failed(f"finish reasons: {heard.finishes}")
    return passed(f"{heard.text or heard.thought!r}")


async def _usage(ask: Asker) -> Outcome:
    return _counted(await ask.say(HI, max_tokens=16))


def _counted(heard: Heard) -> Outcome:
    read, written, total = (heard.count(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if not read or not written:
        return failed(f"usage is {_short(heard.usage) if heard.usage else 'not told'}")
    if total != read + written:
        return failed(f"{read} and {written} tokens are not the {total} that are stated")
    return passed(f"{read} tokens read, {written} written")


async def _usage_stream(ask: Asker) -> Outcome:
    return _counted(await ask.say(HI, max_tokens=16, stream=True, stream_options={"include_usage": True}))


async def _usage_unasked(ask: Asker) -> Outcome:
    """Around the link's own question: what a server does that is told not to tell."""
    link = ask.relay
    asked = {"model": ask.target.model, "messages": [{"role": "user", "content": HI}], "max_tokens": 8, "stream": True}
    doc = wire.parse(wire.encode({**asked, "stream_options": {"include_usage": False}}))
    for quirk in link.quirks:
        doc = quirk(doc)
    if "stream_options" not in doc:
        raise Absent("this kind of server refuses the question, so it is never asked")
    ask.calls += 1
    status, headers, body = await link.ask(link.post(link.base + "/chat/completions", wire.encode(doc)), ask.timeouts)
    if status != 200:
        return Outcome("unsupported", f"HTTP {status} to include_usage: false")
    heard = Heard(body, headers)
    return failed("usage was told all the same; harmless") if heard.usage else passed("no usage, as asked")


async def _stream(ask: Asker) -> Outcome:
    heard = await ask.say(HI, max_tokens=16, stream=True)
    deltas = heard.deltas
    if heard.bad:
        return failed(f"{heard.bad} events are not JSON")
    if not deltas or deltas[0].get("role") != "assistant":
        return failed(f"the first delta is {_short(deltas[0]) if deltas else 'missing'}, without the role")
    return passed(f"{len(deltas)} deltas, the role in the first")


async def _stream_end(ask: Asker) -> Outcome:
    heard = await ask.say(HI, max_tokens=16, stream=True)
    if len(heard.finishes) != 1 or heard.finishes[0] not in _END:
        return failed(f"finish reasons: {heard.finishes}")
    return passed(f"{heard.finishes[0]}, then [DONE]") if heard.done else failed("the stream ended without [DONE]")


async def _unicode(ask: Asker) -> Outcome:
    heard = await ask.say("Repeat exactly: 日本語 ñandú 🙂🚀 Ελλάδα", max_tokens=48, stream=True)
    if heard.bad:
        return failed(f"{heard.bad} events are not valid UTF-8")
    if "\ufffd" in heard.text.rstrip("\ufffd"):  # at its end it only says that max_tokens cut a character
        return failed(f"characters were broken between chunks: {heard.text!r}")
    return passed(f"{heard.text!r}")


async def _length(ask: Asker) -> Outcome:
    heard = await ask.say("Count from 1 to 50.", max_tokens=3)
    if heard.finishes != ["length"]:
        return failed(f"after 3 tokens the finish reason is {heard.finishes}")
    if heard.count("completion_tokens") > 3:
        return failed(f"{heard.count('completion_tokens')} tokens were written", "max_tokens")
    return passed("3 tokens, finish reason length")


async def _completion_tokens(ask: Asker) -> Outcome:
    heard = await ask.say("Count from 1 to 50.", max_completion_tokens=3)
    if heard.count("completion_tokens") > 3 or heard.finishes == ["stop"]:
        written = heard.count("completion_tokens")
        return failed(f"{written} tokens were written, finish reason {heard.finishes}", "max_completion_tokens")
    return passed("3 tokens, finish reason length")


async def _long_prompt(ask: Asker) -> Outcome:
    words = min(3000, (ask.context or 8192) // 3)
    heard = await ask.say("word " * words + "\nWhat word was that?", max_tokens=8)
    read = heard.count("prompt_tokens")
    return failed(f"{words} words came as {read} tokens: cut?") if read < words // 2 else passed(f"{words} words, {read} tokens read")


async def _context(ask: Asker) -> Outcome:
    if ask.context is None or ask.context > LARGEST:
        return Outcome("skipped", f"context of {ask.context or 'unknown size'}: too large to overflow on purpose")
    try:
        heard = await ask.say(" a b" * (ask.context * 11 // 20 + 64), max_tokens=1)
    except Refused as refused:
        code = refused.fault.code
        if code == "context_length_exceeded":
            return passed(f"refused: {refused.fault.message}")
        return failed(f"refused as {code or refused.fault.kind}, which no client knows: {refused.fault.message}")
    return failed(f"a prompt beyond {ask.context} tokens was taken; {heard.count('prompt_tokens')} of it were read")


async def _no_model(ask: Asker) -> Outcome:
    try:
        await ask.ask({"messages": [{"role": "user", "content": HI}], "max_tokens": 1}, model="no-such-model-of-pointsman")
    except Refused as refused:
        kind = refused.fault.kind
        return passed(refused.fault.message) if kind == "not_found" else failed(f"refused as {kind}: {refused.fault.message}")
    return unshown("any name is answered")


async def _wrong_type(ask: Asker) -> Outcome:
    """A parameter with a value that cannot be: the server must say so, in words for the client."""
    try:
        await ask.say(HI, temperature="hot", max_tokens=1)
    except Refused as refused:
        return passed(refused.fault.message)
    except Unclear as unclear:
        return failed(f"not refused as the client's mistake: {unclear}")
    return failed("a temperature that is a text was taken")


async def _unknown(ask: Asker) -> Outcome:
    await ask.say(HI, max_tokens=1, pointsman_probe=True)
    return passed("a parameter that nobody knows does no harm")


async def _system(ask: Asker) -> Outcome:
    return await _turns(ask, ("system", "Answer in French."), ("user", "Good morning!"))


async def _developer(ask: Asker) -> Outcome:
    return await _turns(ask, ("developer", "Answer in French."), ("user", "Good morning!"))


async def _systems(ask: Asker) -> Outcome:
    return await _turns(ask, ("system", "Be brief."), ("system", "Answer in French."), ("user", "Good morning!"))


async def _late_system(ask: Asker) -> Outcome:
    turns = (("user", "Hi."), ("assistant", "Hello."), ("system", "Answer in French."), ("user", "Good morning!"))
    said = await _turns(ask, *turns)
    return passed(said.evidence, late_system=True)


async def _turns(ask: Asker, *turns: tuple[str, str]) -> Outcome:
    plain = [{"role": "user", "content": turns[-1][1]}]
    bare = await ask.ask({"messages": plain, "max_tokens": 16})
    heard = await ask.ask({"messages": [{"role": role, "content": text} for role, text in turns], "max_tokens": 16})
    if heard.count("prompt_tokens") and heard.count("prompt_tokens") <= bare.count("prompt_tokens"):
        return failed(f"{heard.count('prompt_tokens')} tokens with it and {bare.count('prompt_tokens')} without: it was left out")
    return passed(f"{heard.text!r}")


async def _abort(ask: Asker) -> Outcome:
    """Whether an answer that nobody reads any more is still computed: from the gauge that engines show."""
    running = _Gauge(ask)
    if await running.read() is None:
        return unshown("this backend shows no count of what it computes")
    question = {"messages": [{"role": "user", "content": "Count from 1 to 1000."}], "max_tokens": 1000, "stream": True}
    begun = await ask.leave({**question, "ignore_eos": True}, 64)  # known to all that show a gauge
    if not begun:
        return unshown("the answer had ended before it could be left")
    for _ in range(20):
        if await running.read() == 0:
            return passed("nothing is computed after the client left")
        await ask.pause(0.25)
    return failed("5 seconds after its client left, the answer is still computed")


class _Gauge:
    """How many answers an engine computes at this moment."""

    NAMES = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing", "tgi_batch_current_size")

    def __init__(self, ask: Asker) -> None:
        self.link, self.timeouts = ask.relay, Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=10.0)

    async def read(self) -> int | None:
        """None: it is not told. Raises `Fault` when the server does not answer."""
        status, _, body = await self.link.ask(self.link.get(self.link.root + "/slots"), self.timeouts)
        if status == 200 and b'"is_processing"' in body:
            return body.replace(b" ", b"").count(b'"is_processing":true')
        status, _, body = await self.link.ask(self.link.get(self.link.root + "/metrics"), self.timeouts)
        found = [line.rsplit(" ", 1)[-1] for line in body.decode("utf-8", "replace").splitlines() if line.startswith(self.NAMES)]
        try:
            return round(sum(map(float, found))) if status == 200 and found else None
        except ValueError:
            return None


def _short(value: object) -> str:
    return repr(value)[:160]


CHECKS = (
    Check("chat", "a plain answer: role, text, finish reason", _whole, chat=False),
    Check("usage", "token counts in an answer", _usage),
    Check("usage-stream", "token counts at the end of a stream", _usage_stream),
    Check("usage-unasked", "no token counts where include_usage is false", _usage_unasked),
    Check("stream-role", "a stream of JSON events that begins with the role", _stream),
    Check("stream-finish", "one finish reason, then [DONE]", _stream_end),
    Check("unicode", "characters whole across the chunks of a stream", _unicode, output=48),
    Check("max-tokens", "max_tokens is kept, and told as length", _length, output=3, shows=("max_tokens",)),
    Check("max-completion-tokens", "the same under its newer name", _completion_tokens, output=50, shows=("max_completion_tokens",)),
    Check("long-prompt", "a prompt of thousands of tokens is read whole", _long_prompt, input=4000),
    Check("context-limit", "a prompt that does not fit is refused as one", _context, input=0, output=0),
    Check("unknown-model", "a model that is not there is refused as not found", _no_model, output=1),
    Check("invalid-parameter", "a value that cannot be is the client's mistake", _wrong_type, output=1, exact=True),
    Check("unknown-parameter", "a parameter that nobody knows is tolerated", _unknown, output=1),
    Check("system", "a system message", _system, calls=2),
    Check("developer", "a message of the role developer", _developer, calls=2),
    Check("two-systems", "two system messages", _systems, calls=2),
    Check("late-system", "a system message after the first turn", _late_system, calls=2, assume={"late_system": True},
          denies={"late_system": False}),
    Check("abort", "an answer that is left is not computed on", _abort, output=1000, alone=True),
)  # fmt: skip
