"""Text for people: names come from others, so what a terminal would act on or cannot show becomes an escape.

Everything that the package prints goes through `visible`: lines of commands in `alexnet.cli.output`, tables, log lines
and progress in `alexnet.system.terminal`. Pages use it too.
"""

import html
import re
import shlex

_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ACTIVE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: line breaks, and the first bytes of escape sequences
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates: they reorder the text that follows
    "\ud800-\udfff"  # surrogates: bytes of file names that are not UTF-8
    "]"
)


def visible(text: str, encoding: str = "utf-8") -> str:
    r"""The text in one line, as a terminal can show it.

    Control characters, characters that reorder text, and those that `encoding` lacks become escapes that bash and zsh
    read in `$'...'`: `\n`, `\x1b`, `\u202e`, `\U0001f415`. A byte of a file name that is not UTF-8 is `\xe9`; a
    character beyond ASCII is always `\u` or `\U`. Text without such characters is returned as it is, backslashes too.
    """
    text = _ACTIVE.sub(lambda found: _escaped(found.group()), text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(letter if _can_encode(letter, encoding) else _escaped(letter) for letter in text)
    return text


def visible_html(text: str) -> str:
    """The text for a page or an attribute: as `visible` returns it, without markup."""
    return html.escape(visible(text))


def shell_words(*words: object) -> str:
    """Words as a line that a shell reads back, also where one of them has characters that `visible` escapes."""
    return " ".join(_shell_word(str(word)) for word in words)


def _escaped(letter: str) -> str:
    number = ord(letter)
    if letter in _SHORT:
        return _SHORT[letter]
    if 0xDC80 <= number <= 0xDCFF:  # a byte, see `os.fsdecode`
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _can_encode(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _shell_word(word: str) -> str:
    if _ACTIVE.search(word) is None:
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{visible(plain)}'"
