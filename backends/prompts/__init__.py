"""What a call's prompt is, as the scheduler needs it: its length and the hashed blocks of its beginning.

p = prompter(folder_or_name_or_None, Hashing(prefix.digest, prefix.text_blocks, prefix.token_blocks, prefix.salted), engine="vllm")
p.mode, p.reason                      # "tokens", or "text" and why
await verify(p, fetch, "model-name")  # asks the engine once whether it tokenises as we do; leaves token mode where it does not
prompt = p.prompt(call)               # in a thread where p.heavy(call)
p.told(prompt, usage.prompt_tokens)   # after the answer
"""

from __future__ import annotations

from backends.prompts.prompter import Prompter, prompter
from backends.prompts.types import Hashing, Prompt
from backends.prompts.verify import Probe, agrees, probes, verify

__all__ = ["Hashing", "Probe", "Prompt", "Prompter", "agrees", "probes", "prompter", "verify"]
