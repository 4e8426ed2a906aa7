"""Vendors that keep real prefixes of text and bill each call; written from their documents, not from the simulator.

One character is one token. Nothing here is imported from the package.
"""

from dataclasses import dataclass


@dataclass
class Part:
    """A block of a prompt; ``mark`` is "5m", "1h" or ""."""

    role: str
    text: str
    mark: str = ""


@dataclass
class Memory:
    text: str
    answered: float
    last_used: float
    seconds: float


@dataclass
class Bill:
    read: int
    write: int
    write_1h: int
    usd: float


class ScriptedVendor:
    """Bills like one of "anthropic", "openai-old", "openai-new", "gemini"; ``forgets_after`` makes it worse."""

    def __init__(self, family, forgets_after=None):
        self.family = family
        self.forgets_after = forgets_after
        self.memories = {}

    def serve(self, scope, at, parts, *, answered, output=0):
        remembered = self.memories.setdefault(scope, [])
        if self.family in ("anthropic", "openai-new"):
            return self._marked(remembered, at, parts, answered, output)
        return self._implicit(remembered, at, "".join(p.text for p in parts), answered, output)

    def _usable(self, memory, at):
        seconds = memory.seconds if self.forgets_after is None else min(memory.seconds, self.forgets_after)
        return memory.answered <= at and at - memory.last_used <= seconds

    def _marked(self, remembered, at, parts, answered, output):
        texts = ["".join(p.text for p in parts[: i + 1]) for i in range(len(parts))]
        if self.family == "anthropic":
            stops = [(i, 3600 if p.mark == "1h" else 300) for i, p in enumerate(parts) if p.mark]
            window, price, dearer, out = 20, 3.0, 2.0, 15.0
        else:
            messages = [i for i, p in enumerate(parts) if p.role != "system"] or [len(parts) - 1]
            marked = [i for i, p in enumerate(parts) if p.mark][-3:]
            stops = [(i, 1800) for i in sorted({*marked, messages[-1]})]
            window, price, dearer, out = 80, 4.0, 1.25, 20.0
        looked_at = {len(texts[j]) for i, _ in stops for j in range(i, max(i - window, -1), -1)}
        whole = texts[-1]
        known = [m for m in remembered if self._usable(m, at) and whole.startswith(m.text)]
        read = max((len(m.text) for m in known if len(m.text) in looked_at), default=0)
        for memory in known:
            if len(memory.text) <= read:
                memory.last_used = at
        billed = billed_1h = read
        have = {m.text for m in known}
        for i, seconds in stops:
            if len(texts[i]) < 1024:
                continue
            billed = max(billed, len(texts[i]))
            if seconds == 3600:
                billed_1h = max(billed_1h, len(texts[i]))
            if texts[i] not in have:
                remembered.append(Memory(texts[i], answered, at, seconds))
        write, write_1h = billed - read, billed_1h - read
        rest = len(whole) - billed
        dollars = rest * price + 0.1 * read * price + 1.25 * price * (write - write_1h) + dearer * price * write_1h
        return Bill(read, write, write_1h, (dollars + out * output) / 1e6)

    def _implicit(self, remembered, at, whole, answered, output):
        if self.family == "openai-old":
            first, step, seconds, price, share, out = 1024, 128, 600, 2.5, 0.5, 10.0
        else:
            first, step, seconds, price, share, out = 4096, 1, 86400, 0.75, 0.1, 3.75
        # every remembered text is one that could be read: the whole blocks of a prompt, or of a prefix of it
        known = [m for m in remembered if self._usable(m, at)]
        shared = max((self._same(m.text, whole) for m in known), default=0)
        read = first + (shared - first) // step * step if shared >= first else 0
        for memory in known:
            same = self._same(memory.text, whole)
            if same == len(memory.text):
                memory.last_used = at
            elif same >= first:  # the common part lives on, the rest grows old
                remembered.append(Memory(memory.text[:same], memory.answered, at, seconds))
        remembered.append(Memory(whole, answered, at, seconds))
        return Bill(read, 0, 0, ((len(whole) - read) * price + share * read * price + out * output) / 1e6)

    @staticmethod
    def _same(a, b):
        low, high = 0, min(len(a), len(b))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
        return low
