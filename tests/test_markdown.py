"""Free text can break neither the card's Markdown nor its YAML, nor run as a template."""

import subprocess

import pytest
from jinja2 import UndefinedError

from animal_ldm.markdown import Markdown, code, link, one_line, render, shell

HOSTILE = "x | y\n---\n# Title\n<script>alert(1)</script> {{ 7 * 7 }} {% raw %} [a](b) `c` *d* ![e](f) $x$ ~~g~~"


def test_free_text_stays_text():
    shown = render("{{ text }}", text=HOSTILE)
    assert "\n" not in shown
    assert "49" not in shown
    for markup in ("|", "<", ">", "{", "[", "]", "`", "*", "!", "#", "$", "~"):
        assert shown.count("\\" + markup) == shown.count(markup)


def test_markdown_passes_as_it_is():
    assert render("{{ text }}", text=Markdown("**bold**")) == "**bold**"
    assert render("{{ [1, 2] | join(', ') }}") == "1, 2"


def test_joined_and_concatenated_text_is_escaped():
    assert render("{{ names | join(', ') }}", names=["a_b", "c|d"]) == r"a\_b, c\|d"
    assert render("{{ a ~ 'x' }}", a="*") == r"\*x"


def test_undefined_names_are_errors():
    for template in ("{{ missing }}", "{{ known.missing }}", "{% if missing %}{% endif %}", "{{ known.a.b }}"):
        with pytest.raises(UndefinedError):
            render(template, known={"a": {}})


def test_inline_code_cannot_be_left():
    assert code("plain") == "`plain`"
    assert code("a ``b`` c") == "``` a ``b`` c ```"
    assert code("a\nb|c") == r"`a b\|c`"


def test_links():
    assert link("https://example.org/a_b?c=1") == "<https://example.org/a_b?c=1>"
    assert link("me@example.org") == "<me@example.org>"
    assert link("javascript:alert(1)") == "javascript:alert(1)"  # no link, and no markup
    assert link("[me](https://example.org)").startswith(r"\[me\]")


def test_addresses_in_free_text_are_no_links():
    shown = render("{{ text }}", text="see https://example.org, www.example.org, WWW.example.org or me@example.org")
    assert shown == r"see https:\//example.org, www\.example.org, WWW\.example.org or me\@example.org"


def test_what_a_terminal_obeys_is_left_out():
    text = "a\x1b[2J b\x07\x9b \u202ec \x00\ud800d\re"
    assert one_line(text) == "a[2J b c d e"
    for shown in (render("{{ text }}", text=text), code(text), render("{{ text | literal }}", text=text)):
        assert not set(shown) & set("\x1b\x07\x9b\u202e\x00\ud800\r")


@pytest.mark.parametrize(
    "text", ["$(echo run)", "`echo run`", "'; echo run; '", '"; echo run; "', "a\necho run", "\\", ""]
)
def test_text_in_a_command_is_one_word(text):
    ran = subprocess.run(["sh", "-c", f"printf '<%s>' {shell(text)}"], capture_output=True, text=True)
    assert ran.stdout == f"<{one_line(text)}>"
