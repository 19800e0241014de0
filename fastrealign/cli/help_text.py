"""Help that fits the terminal: the lines of descriptions and examples are kept where they fit, and wrapped where not."""

from __future__ import annotations

import argparse
import re
import textwrap

_COMMAND = re.compile(r" +(fastrealign|source) ")
# Of a command: an option with its value, or one word; spaces within quotes end none.
_WORD = re.compile(r"""(?:-[\w-]+ (?!-))?(?:'[^']*'|"[^"]*"|\S)+""")
_CONTINUED = re.compile(r" \\\n +")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's own keeps the lines of descriptions and epilogs, however narrow the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent(fitted(text, width + 2 - len(indent)), indent)  # argparse leaves the last 2 columns free


def fitted(text: str, columns: int) -> str:
    """`text` in lines of at most `columns`, apart from words that are longer; commands continue after a backslash."""
    # What is wrapped together: a command with its continued lines, or neighbouring lines of one indentation.
    blocks: list[list[str]] = []
    for line in text.splitlines():
        before = blocks[-1] if blocks else [""]
        alike = len(line) - len(line.lstrip()) == len(before[0]) - len(before[0].lstrip())
        prose = bool(line and before[0]) and not any(_COMMAND.match(one) or "#" in one for one in (line, before[0]))
        if before[-1].endswith(" \\") or (alike and prose):
            before.append(line)
        else:
            blocks.append([line])
    return "\n".join(_block("\n".join(lines), columns) for lines in blocks)


def _block(text: str, columns: int) -> str:
    if all(len(line) <= columns for line in text.splitlines()):
        return text
    indent = text[: len(text) - len(text.lstrip())]
    if not _COMMAND.match(text):
        mark = "# " if text.lstrip().startswith("# ") else ""
        words = " ".join(text.split())
        return textwrap.fill(
            words,
            columns,
            initial_indent=indent,
            subsequent_indent=indent + mark,
            break_long_words=False,
            break_on_hyphens=False,
        )
    lines = [indent]
    for word in _WORD.findall(_CONTINUED.sub(" ", text)):
        if lines[-1].strip() and len(lines[-1]) + len(word) + 3 > columns:  # a space before it, " \" after it
            lines[-1] += " \\"
            lines.append(indent + "    ")
        lines[-1] += word if lines[-1].endswith(" ") else f" {word}"
    return "\n".join(lines)
