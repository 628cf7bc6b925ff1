"""Options from a YAML file, and `--print-config`."""

from collections.abc import Iterable, Mapping
from typing import Any

from nnaccel.arguments import did_you_mean
from nnaccel.cli.messages import in_one_line
from nnaccel.files import existing_file
from nnaccel.tabular.tables import import_extra

NOT_IN_CONFIG = ("command", "config", "print_config")


def read_config(path: str, known: Iterable[str]) -> dict[str, Any]:
    yaml = import_extra("yaml")
    try:
        values = yaml.safe_load(existing_file(path).read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {in_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines such as 'epochs: 20', got {str(values)[:60]!r}")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    allowed = [name for name in known if name not in NOT_IN_CONFIG]
    if unknown := [name for name in values if name not in allowed]:
        close = did_you_mean(unknown[0], allowed)
        raise ValueError(f"{path}: unknown option {unknown[0]!r}{close}")
    return values


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        elif name == "source":
            arguments.insert(0, str(value))
        elif value is True:
            arguments.append(option)
        elif isinstance(value, list):
            arguments += [option, *map(str, value)]
        else:
            arguments.append(f"{option}={value}")
    return arguments


def print_config(options: Any) -> None:
    values = {name: value for name, value in vars(options).items() if name not in NOT_IN_CONFIG}
    values["activation"] = [*values["activation"]]
    print(import_extra("yaml").safe_dump(values, sort_keys=False, allow_unicode=True), end="")
