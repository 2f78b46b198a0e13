"""Checks of how an answer is chosen and continued: temperature, seeds, stops, log probabilities, choices, prefill, reasoning.

Answers are compared with the model's own earlier ones, so they judge the server and not what the model knows.
"""

from __future__ import annotations

from typing import Any

from backends.openai import OpenAILink
from backends.probe.ask import Asker
from backends.probe.types import Check, Outcome, Refused, Unclear, failed, passed, unshown

STORY = "Write a short story about a lighthouse keeper and a storm."
COLD: dict[str, Any] = {"temperature": 0, "max_tokens": 32}


async def _cold(ask: Asker) -> str:
    """What the model says to `STORY` at temperature 0."""
    return (await ask.say(STORY, **COLD)).text


async def _temperature(ask: Asker) -> Outcome:
    await ask.say(STORY, temperature=0.5, max_tokens=1)
    return passed("temperature 0.5 was taken", sampling=True)


async def _both(ask: Asker) -> Outcome:
    await ask.say(STORY, temperature=0.5, top_p=0.9, max_tokens=1)
    return passed("temperature and top_p were taken together", temperature_with_top_p=True)


async def _repeats(ask: Asker) -> Outcome:
    first, second = await _cold(ask), await _cold(ask)
    if not first:
        return unshown("the model says nothing in 32 tokens")
    return passed(f"twice the same: {first!r}") if first == second else failed(f"{first!r}, then {second!r}")


async def _seed(ask: Asker) -> Outcome:
    hot: dict[str, Any] = {"temperature": 1.2, "max_tokens": 32}
    first, second = [(await ask.say(STORY, seed=7, **hot)).text for _ in range(2)]
    if not first:
        return unshown("the model says nothing in 32 tokens")
    if first != second and ask.hot:
        return unshown("the model takes no temperature, and its answers differ whatever the seed")
    if first != second:
        return failed(f"one seed, two answers: {first!r}, {second!r}", "seed", seed=False)
    others = [(await ask.say(STORY, seed=seed, **hot)).text for seed in (8, 9)]
    if all(other == first for other in others):
        return unshown("every seed gives the same answer")
    return passed(f"one seed, one answer; another seed, another: {first!r}", seed=True)


async def _stop_text(ask: Asker) -> Outcome:
    return await _stop(ask, False)


async def _stop_list(ask: Asker) -> Outcome:
    return await _stop(ask, True)


async def _stop(ask: Asker, several: bool) -> Outcome:
    whole = await _cold(ask)
    word = _middle(whole)
    if not word:
        return unshown(f"the model says too little to stop it: {whole!r}")
    heard = await ask.say(STORY, stop=["\x01never\x01", word] if several else word, **COLD)
    if word in heard.text:
        return failed(f"{word!r} is in the answer {heard.text!r}", "stop")
    if not whole.startswith(heard.text):
        return unshown(f"the second answer is another one: {heard.text!r}")
    if heard.finishes != ["stop"]:
        return failed(f"stopped before {word!r} with finish reasons {heard.finishes}")
    return passed(f"stopped before {word!r}")


def _middle(text: str) -> str:
    """A word from the middle of a text, with its space; empty when there is none."""
    words = text.split(" ")
    return f" {words[len(words) // 2]}" if len(words) > 2 and words[len(words) // 2] else ""


async def _logprobs(ask: Asker) -> Outcome:
    content = await _logged(ask, logprobs=True)
    if not content or not isinstance(content[0].get("logprob"), int | float):
        return failed("none in the answer", "logprobs", "top_logprobs", logprobs=False)
    return passed(f"{len(content)} tokens, the first {content[0].get('token')!r} at {content[0]['logprob']:.3f}", logprobs=True)


async def _top_logprobs(ask: Asker) -> Outcome:
    content = await _logged(ask, logprobs=True, top_logprobs=3)
    sizes = {len(tops) for one in content if isinstance(tops := one.get("top_logprobs"), list)}
    if not sizes or not sizes <= {1, 2, 3}:
        return failed(f"asked for 3 a token, got {sorted(sizes) or 'none'}", "top_logprobs")
    return passed(f"{max(sizes)} a token")


async def _logged(ask: Asker, **params: Any) -> list[dict[str, Any]]:
    choices = (await ask.say(STORY, max_tokens=4, temperature=0, **params)).choices
    logged = choices[0].get("logprobs") if choices else None
    content = logged.get("content") if isinstance(logged, dict) else None
    return [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []


async def _many(ask: Asker) -> Outcome:
    choices = (await ask.say(STORY, n=2, max_tokens=8)).choices
    if len(choices) != 2:
        return failed(f"asked for 2 choices, got {len(choices)}", "n", many=False)
    events = (await ask.say(STORY, n=2, max_tokens=8, stream=True)).events
    indexes = {choice.get("index") for event in events for choice in event.get("choices") or ()}
    if indexes != {0, 1}:
        return failed(f"2 choices in an answer, and {indexes} in a stream", "n", many=False)
    return passed("2 choices, streamed or not", many=True)


async def _penalties(ask: Asker) -> Outcome:
    await ask.say(STORY, presence_penalty=0.5, frequency_penalty=0.5, max_tokens=1)
    return passed("both penalties were taken")


async def _bias(ask: Asker) -> Outcome:
    await ask.say(STORY, logit_bias={"5": -100}, max_tokens=1)
    return passed("logit_bias was taken")


_FORMS: tuple[dict[str, Any], ...] = ({}, {"continue_final_message": True, "add_generation_prompt": False})


async def _prefill(ask: Asker) -> Outcome:
    """Begins the model's own answer for it: what comes must be the rest, not a new beginning."""
    whole = await _cold(ask)
    begun = whole[: len(whole) // 2].rpartition(" ")[0]  # a word is not cut: its first half is written in other tokens
    rest = whole[len(begun) :].strip()
    if len(begun) < 8 or len(rest) < 8:
        return unshown(f"the model says too little to continue: {whole!r}")
    turns = [{"role": "user", "content": STORY}, {"role": "assistant", "content": begun}]
    said, refused = "", None
    for form in _FORMS if isinstance(ask.link, OpenAILink) else _FORMS[:1]:
        try:
            said = (await ask.ask({"messages": turns, **COLD, **form})).text
        except Refused as no:
            refused = no
            continue
        how = f", with {next(iter(form))}" if form else ""
        for text, more in ((said, ""), (said.removeprefix(begun), ", after it was repeated")):
            if text.strip().startswith(rest[:8]):
                return passed(f"continued{how}{more}: {said!r}", prefill=True)
    if refused is not None and not said:
        raise refused
    if said[:8] == whole[:8]:
        return failed(f"{begun!r} was not continued but begun anew: {said!r}", prefill=False)
    return unshown(f"neither the rest of {begun!r} nor a new beginning: {said!r}")


async def _effort(ask: Asker) -> Outcome:
    heard = await ask.say("What is 17 times 23?", reasoning_effort="low", max_tokens=2048)
    return passed(f"taken; {len(heard.thought)} characters of reasoning" if heard.thought else "taken")


async def _reasoning(ask: Asker) -> Outcome:
    heard = await ask.say("What is 17 times 23? Think first.", max_tokens=512)
    if heard.thought:
        return passed(f"shown: {heard.thought!r}")
    if "<think>" in heard.text:
        return failed("reasoning stands in the text, as <think>")
    details = heard.usage.get("completion_tokens_details")
    counted = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return unshown(f"{counted} tokens of reasoning, none shown" if counted else "the model shows none")


async def _raw(ask: Asker) -> Outcome:
    heard = await ask.ask({"prompt": "The quick brown fox", "max_tokens": 8}, api="completions")
    if not heard.choices or not isinstance(heard.choices[0].get("text"), str):
        raise Unclear("the answer holds no text")
    return passed(f"{heard.text!r}")


CHECKS = (
    Check("temperature", "sampling parameters are taken", _temperature, output=1, assume={"sampling": True}, denies={"sampling": False},
          shows=("temperature",), exact=True),
    Check("temperature-top-p", "temperature and top_p together", _both, output=1, assume={"sampling": True, "temperature_with_top_p": True},
          denies={"temperature_with_top_p": False}, exact=True),
    Check("temperature-0", "temperature 0 repeats itself", _repeats, calls=2, output=64, alone=True, exact=True),
    Check("seed", "a seed repeats itself", _seed, calls=4, output=128, alone=True, assume={"seed": True}, denies={"seed": False},
          shows=("seed",)),
    Check("stop", "stop as a text", _stop_text, calls=2, output=64, alone=True, shows=("stop",)),
    Check("stop-list", "stop as a list", _stop_list, calls=2, output=64, alone=True),
    Check("logprobs", "log probabilities", _logprobs, output=4, assume={"logprobs": True}, denies={"logprobs": False},
          shows=("logprobs", "top_logprobs")),
    Check("top-logprobs", "those of the other candidates", _top_logprobs, output=4, assume={"logprobs": True}, shows=("top_logprobs",)),
    Check("n", "two choices in one call", _many, calls=2, output=32, assume={"many": True}, denies={"many": False}, shows=("n",)),
    Check("penalties", "presence and frequency penalties", _penalties, output=1, shows=("presence_penalty", "frequency_penalty")),
    Check("logit-bias", "biased tokens", _bias, output=1, shows=("logit_bias",)),
    Check("prefill", "an answer that was begun is continued", _prefill, calls=3, output=96, alone=True, assume={"prefill": True},
          denies={"prefill": False}),
    Check("reasoning-effort", "how hard to think", _effort, output=2048, shows=("reasoning_effort",)),
    Check("reasoning", "reasoning is shown in a field of its own", _reasoning, output=512),
    Check("completions", "the text completions API", _raw, output=8, chat=False),
)  # fmt: skip
