"""Machine code of CUDA and Triton kernels (SASS) as cuobjdump prints it: instructions, loops, the way around a loop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise
from typing import NamedTuple

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z]\S*)([^;]*);", re.MULTILINE)
# What rows that are good, in range and followed by others do not run: subroutines for special cases, additions to memory,
# barriers, and the emptying of accumulators into shared memory.
_RARE = ("CALL", "ATOM", "RED", "BAR", "STS")


class Instruction(NamedTuple):
    address: int
    guard: str  # "@P0", or empty
    name: str  # with its modifiers: LDG.E.128
    operands: str

    @property
    def operation(self) -> str:
        return self.name.split(".")[0]


class Loop(NamedTuple):
    header: int
    body: set[int]  # the addresses of its basic blocks


def functions(listing: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Mangled name and instructions of each kernel in the output of cuobjdump --dump-sass."""
    for part in listing.split("Function : ")[1:]:
        name, _, body = part.partition("\n")
        found = _INSTRUCTION.findall(body)
        yield name.strip(), [Instruction(int(at, 16), guard, op, rest.strip()) for at, guard, op, rest in found]


def _target(instruction: Instruction) -> int | None:
    """Where a branch goes. BRA.DIV leads to a copy for lanes that have diverged: never, in these kernels."""
    if instruction.operation != "BRA" or instruction.name.startswith("BRA.DIV"):
        return None
    return int(re.findall(r"0x([0-9a-f]+)", instruction.operands)[-1], 16)


class Flow:
    """The basic blocks of a kernel, by address, where each may continue, and its natural loops."""

    def __init__(self, code: list[Instruction]) -> None:
        leaders = {code[0].address} | {target for i in code if (target := _target(i)) is not None}
        ends = ("BRA", "EXIT", "RET", "CALL", "BRX", "BREAK")
        leaders |= {after.address for before, after in pairwise(code) if before.operation in ends}
        self.blocks: dict[int, list[Instruction]] = {}
        for instruction in code:
            if instruction.address in leaders:
                self.blocks[instruction.address] = block = []
            block.append(instruction)
        self.following = {
            start: self._next(start, after) for start, after in pairwise([*self.blocks, None]) if start is not None
        }
        self.dominators = self._dominators(code[0].address)
        self.loops = self._loops()

    def _next(self, start: int, after: int | None) -> list[int]:
        last = self.blocks[start][-1]
        target = _target(last)
        always = not last.guard and not re.match(r"!?U?P\d", last.operands)
        stops = last.operation in ("RET", "BRX") or (last.operation == "EXIT" and always) or (target and always)
        return [to for to in (target, None if stops else after) if to in self.blocks]

    def _dominators(self, entry: int) -> dict[int, set[int]]:
        """For each block that can be reached, the blocks on every way to it."""
        order = [entry]
        for start in order:
            order += [to for to in dict.fromkeys(self.following[start]) if to not in order]
        before = {start: [b for b in order if start in self.following[b]] for start in order}
        dominators = {start: set(order) for start in order} | {entry: {entry}}
        changed = True
        while changed:
            changed = False
            for start in order[1:]:
                new = {start} | set.intersection(*(dominators[b] for b in before[start]))
                changed |= new != dominators[start]
                dominators[start] = new
        return dominators

    def _loops(self) -> list[Loop]:
        dominators = self.dominators
        found: dict[int, set[int]] = {}
        for end in dominators:
            for header in self.following[end]:
                if header not in dominators[end]:
                    continue
                body = found.setdefault(header, {header})
                left = [end]
                while left:
                    here = left.pop()
                    if here not in body:
                        body.add(here)
                        left += [b for b in dominators if here in self.following[b]]
        return [Loop(*item) for item in sorted(found.items())]

    def code(self, loop: Loop) -> list[Instruction]:
        return [i for start in sorted(loop.body) for i in self.blocks[start]]

    def once_around(self, loop: Loop, marked: set[int], inner: Mapping[int, int]) -> list[tuple[Instruction, int]]:
        """The longest way once around a loop without what is rare: instructions, and how often each runs.

        marked   blocks that are on the way
        inner    header -> turns of the loops inside that are on the way; others are not
        """
        within = [other for other in self.loops if other.header != loop.header and other.body < loop.body]
        chosen = {other.header: other for other in within if other.header in inner}
        left_out = [other.header for other in within if other.header not in inner]
        usable = loop.body - {b for other in within for b in other.body} - self._rare(loop, marked, left_out)
        usable |= {loop.header} | set(chosen)
        best: dict[int, tuple[int, list[tuple[Instruction, int]]] | None] = {}

        def step(start: int) -> tuple[list[tuple[Instruction, int]], list[int]]:
            if start not in chosen:
                return [(i, 1) for i in self.blocks[start]], self.following[start]
            turns = [(i, n * inner[start]) for i, n in self.once_around(chosen[start], marked, inner)]
            body = chosen[start].body
            return turns, [to for b in sorted(body) for to in self.following[b] if to not in body]

        def way(start: int) -> tuple[int, list[tuple[Instruction, int]]] | None:
            """Instructions from here back to the header, and their number; None where there is no way."""
            if start not in best:
                best[start] = None
                here, following = step(start)
                ways = [
                    (0, []) if to == loop.header else way(to) for to in following if to == loop.header or to in usable
                ]
                longest = max((w for w in ways if w is not None), key=lambda w: w[0], default=None)
                if longest is not None:
                    best[start] = sum(n for _, n in here) + longest[0], here + longest[1]
            return best[start]

        found = way(loop.header)
        if found is None:
            raise ValueError("no way around the loop")
        return found[1]

    def _rare(self, loop: Loop, marked: set[int], left_out: list[int]) -> set[int]:
        """Blocks with rare instructions, and blocks in a condition that leads to a loop that is left out."""
        rare = {b for b in loop.body if any(i.operation.startswith(_RARE) for i in self.blocks[b])}
        for block in {b for header in left_out for b in self.dominators[header] & loop.body} - {loop.header}:
            leads_to = {b for b in loop.body if block in self.dominators[b]}
            if not leads_to & marked and self._can_pass_by(block, loop):
                rare.add(block)
        return rare

    def _can_pass_by(self, block: int, loop: Loop) -> bool:
        """Whether a way from the last block before a condition back to the header avoids `block`."""
        before = max(self.dominators[block] - {block}, key=lambda b: len(self.dominators[b]))
        seen, left = {block}, [before]
        while left:
            here = left.pop()
            if here == loop.header and here != before:
                return True
            if here not in seen and here in loop.body:
                seen.add(here)
                left += self.following[here]
                if loop.header in self.following[here]:
                    return True
        return False


def smallest_loop(flow: Flow, marked: set[int]) -> Loop:
    """The smallest loop that has all marked blocks."""
    having = [loop for loop in flow.loops if marked and marked <= loop.body]
    if not having:
        raise ValueError("no loop has what marks a kernel's main loop")
    return min(having, key=lambda loop: len(loop.body))


def registers(instruction: Instruction, wide: bool) -> tuple[set[str], set[str]]:
    """Written and read; `wide`: arithmetic on pairs of registers."""
    fields = [field.strip() for field in instruction.operands.split(",")]
    writes = instruction.operation not in ("STG", "STS", "STL", "STSM", "BRA", "EXIT")
    # A predicate may come before the result: of a shuffle, of a comparison.
    at = next((i for i, field in enumerate(fields[:2]) if re.match(r"R\d", field)), -1) if writes else -1
    found: tuple[set[str], set[str]] = (set(), set(re.findall(r"\bU?P\d", instruction.guard)))
    for i, field in enumerate(fields):
        is_result = writes and (i == at or (i < max(at, 1) and re.match(r"U?P\d", field)))
        found[0 if is_result else 1].update(re.findall(r"\bU?P\d", field))
        for number in map(int, re.findall(r"\bR(\d+)", field)):
            size = {"64": 2, "128": 4}.get(instruction.name.split(".")[-1], 1)
            if instruction.operation == "F2F":
                size = 2 if (".F64." in instruction.name) == is_result else 1
            elif wide or instruction.operation == "CS2R" or "WIDE" in instruction.name:
                size = 2
            found[0 if is_result else 1].update(f"R{number + k}" for k in range(size))
    return found


def repeated(way: list[tuple[Instruction, int]]) -> Iterator[Instruction]:
    """The instructions in the order in which they run."""
    for turns, group in groupby(way, key=lambda item: item[1]):
        yield from [i for i, _ in group] * turns
