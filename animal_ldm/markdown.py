"""Markdown from templates, with users' texts escaped to plain text. All cards are made with it."""

import json
import re
import shlex
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

# What Markdown or HTML could read as markup. A backslash makes it plain text, in tables and headings too.
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!$&^@]|(?<=:)/(?=/)|(?<=www)\.)", re.IGNORECASE)
# What a terminal obeys, what turns the direction of text, and halves of characters, which no file can hold.
UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Markdown(str):
    """Text that already is Markdown: templates insert it unchanged."""


def printable(text: str) -> str:
    """The text without characters that are not there to be read; line breaks and tabs stay."""
    return UNPRINTABLE.sub("", text)


def one_line(text: str) -> str:
    """The text without line breaks, which could end a table row, a code block or the YAML above the card."""
    return " ".join(printable(text).split())


def plain(value: object) -> str:
    """`value` as Markdown that shows exactly its text."""
    if isinstance(value, Markdown):
        return value
    return MARKUP.sub(r"\\\1", re.sub(r"\s+", " ", printable(str(value))))


def code(value: object) -> Markdown:
    """`value` as inline code; its fence is longer than any run of backticks within."""
    text = one_line(str(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if fence != "`" else ""
    # A bar ends a table's cell, even within code.
    return Markdown(f"{fence}{pad}{text}{pad}{fence}".replace("|", r"\|"))


def literal(value: object) -> Markdown:
    """`value` as a Python literal, for a line of a code block."""
    return Markdown(printable(json.dumps(value, ensure_ascii=False)))


def shell(value: object) -> Markdown:
    """`value` as one word of a command; in double quotes, a shell would run what is in $(…)."""
    text = one_line(str(value))
    return Markdown(f'"{text}"' if re.fullmatch(r"[\w ,.'-]+", text) else shlex.quote(text))


def link(value: str) -> Markdown:
    """A URL or e-mail address as a link, other text as plain text."""
    if re.fullmatch(r"(https?://|mailto:)?[\w.@:/?=%+~#-]+", value) and ("://" in value or "@" in value):
        return Markdown(f"<{value}>")
    return Markdown(plain(value))


def url(value: str) -> Markdown:
    """`value` as part of a URL: an id or a relative path."""
    return Markdown(quote(value))


def render(template: str, **values: object) -> str:
    """The template filled with `values`.

    Every value is escaped unless it is `Markdown`; a macro's output, in which values are escaped already, is passed on
    by the filter `markdown`. None is itself read as a template.

    Raises:
        jinja2.UndefinedError: the template uses a name that `values` lacks.
    """
    environment = Environment(
        undefined=StrictUndefined, finalize=plain, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "code": code,
        "literal": literal,
        "shell": shell,
        "link": link,
        "url": url,
        "markdown": Markdown,
    }
    return environment.from_string(template).render(values)
