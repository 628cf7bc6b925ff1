"""Options from a YAML file, and `--print-config`.

A configuration consists of lines such as `epochs: 20`: a name, and a word or a list of words. Other
constructs of YAML are refused. The words are parsed like arguments, not by YAML's rules: `target:
no` is the column "no", and `target: 2021-01-01` is text.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from nnaccel.arguments import did_you_mean
from nnaccel.cli.messages import in_one_line
from nnaccel.cli.streams import visible
from nnaccel.files import existing_file
from nnaccel.tabular.tables import import_extra

NOT_IN_CONFIG = ("help", "command", "config", "print_config", "arguments")
LARGEST = 2**16  # bytes: a list of some thousand columns, which takes a second to read
EXAMPLE = "write lines such as 'epochs: 20' or 'hidden: [64, 32]'"
TEXT, NULL, TRUTH = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "bool"))


def read_config(path: str, actions: Iterable[Any]) -> dict[str, Any]:
    """The values of options in a file, by their names.

    actions: argparse's description of each option.
    Raises ValueError, with the number of the line, for other lines, and OSError for a file that is
    not plain.
    """
    options = {action.dest: action for action in actions if action.dest not in NOT_IN_CONFIG}
    values: dict[str, Any] = {}
    for line, name, node in _lines(path, _text(path)):
        where, key = f"{path}, line {line}", name.replace("-", "_")
        if key not in options:
            raise ValueError(f"{where}: unknown option {name!r}{did_you_mean(key, options)}")
        if key in values:
            raise ValueError(f"{where}: {name!r} is there already; remove one of the lines")
        values[key] = _value(node, options[key], f"{where}: {name}")
    return {key: value for key, value in values.items() if value is not None}


def _text(path: str) -> str:
    with existing_file(path).open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST:,} bytes, and is no list of options")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: is not UTF-8 text") from None


def _lines(path: str, text: str) -> list[tuple[int, str, Any]]:
    """Yields for each line its number, the name, and the YAML node of the value."""
    root = _composed(path, text)
    if root is None:
        return []
    if root.id != "mapping":
        _refuse(path, root, "expected the name of an option and a colon")
    for name, _ in root.value:
        if name.tag != TEXT:
            _refuse(path, name, "the name of an option must be a plain word")
    return [(name.start_mark.line + 1, name.value, node) for name, node in root.value]


def _composed(path: str, text: str) -> Any:
    """The nodes of a YAML document, without constructing objects, or None if it is empty."""
    yaml = import_extra("yaml")

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                _refuse(path, self.peek_event(), "an alias (*) stands for nothing here")
            if self.depth == 3:  # the lines, the list, its words
                _refuse(path, self.peek_event(), "a list must hold words alone")
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        return yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}, line {line}: {error.problem}; {EXAMPLE}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{path}, line {line}: {in_one_line(error)}") from None


def _refuse(path: str, node: Any, what: str) -> NoReturn:
    raise ValueError(f"{path}, line {node.start_mark.line + 1}: {what}; {EXAMPLE}")


def _value(node: Any, option: Any, where: str) -> Any:
    """The value of an option from a node; None if the option keeps its default."""
    if node.tag == NULL:
        return None
    words = node.value if node.id == "sequence" else [node]
    if any(word.id != "scalar" for word in words):
        raise ValueError(f"{where} must be a word or a list of words; {EXAMPLE}")
    several = option.nargs in ("+", "*")
    if node.id == "sequence" and not several:
        raise ValueError(f"{where} must be one word, got a list")
    if not words and option.nargs == "+":
        raise ValueError(f"{where} must be one word or more, got an empty list")
    if option.nargs == 0:
        return _flag(node, where)
    values = [_word(word.value, option, where) for word in words]
    return values if several else values[0]


def _flag(node: Any, where: str) -> bool:
    if node.tag != TRUTH:
        raise ValueError(f"{where} must be true or false, got {node.value!r}")
    return node.value.lower() in ("true", "yes", "on")


def _word(text: str, option: Any, where: str) -> Any:
    kind = option.type or str
    try:
        value = kind(text)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise ValueError(f"{where} must be {expected}, got {text!r}") from None
    if option.choices is not None and value not in option.choices:
        close = did_you_mean(value, option.choices)
        raise ValueError(f"{where} must be one of {', '.join(option.choices)}, got {text!r}{close}")
    return value


def print_config(options: Any) -> None:
    values: Mapping[str, Any] = {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in vars(options).items()
        if name not in NOT_IN_CONFIG
    }
    dump = import_extra("yaml").safe_dump
    text = dump(values, sort_keys=False, allow_unicode=True)
    if visible(text, sys.stdout.encoding) != text:
        text = dump(values, sort_keys=False)  # with YAML's escapes, which `read_config` reads
    print(text, end="")
