"""Options from a file: what it may say, what it may not, and in which line that is."""

import os

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")
yaml = pytest.importorskip("yaml", reason="the command line needs the extra [cli]")

from nnaccel.cli.main import build_parser
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings


def test_print_config_has_every_option_with_its_default(run, here):
    config = yaml.safe_load(run("train", "iris", "--print-config"))
    _, parsers = build_parser()
    options = vars(parsers["train"].parse_args(["iris"]))
    assert config.keys() == options.keys() - {"config", "print_config"}
    defaults = Settings()
    for name in Settings.__dataclass_fields__:
        value = config[name]
        assert (tuple(value) if isinstance(value, list) else value) == getattr(defaults, name)
    assert not list(here.iterdir())


RUN = (
    *("--hidden", "6", "5", "--activation", "relu", "tanh", "--dropout", "0.1", "--seed", "3"),
    *("--optimizer", "adam", "--learning-rate", "1e-2", "--schedule", "cosine", "--epochs", "3"),
    *("--batch-size", "30", "--early-stopping", "2", "--validation-fraction", "0.3"),
    *("--weight-decay", "0", "--l2", "1e-5", "--clip-norm", "2", "--label-smoothing", "0.1"),
    *("--class-weight", "balanced", "--drop", "petal width (cm)", "--test-fraction", "0.3"),
    *("--dtype", "float64", "--initializer", "he_normal"),
)


def test_a_printed_configuration_gives_the_same_run(run, here):
    run("train", "iris", *RUN, "--output", "given")
    (here / "run.yaml").write_text(run("train", "iris", *RUN, "--print-config"))
    run("train", "--config", "run.yaml", "--output", "read")
    given, read = (Model.load(here / name) for name in ("given", "read"))
    assert (read.settings, read.scores, read.history) == (
        given.settings,
        given.scores,
        given.history,
    )
    np.testing.assert_array_equal(read.params, given.params)


def test_the_command_line_has_the_last_word(run, here):
    (here / "run.yaml").write_text("source: wine\nepochs: 1\nhidden: 4\nlearning-rate: 1e-3\n")
    run("train", "iris", "--config", "run.yaml", "--hidden", "5", "6")
    settings = Model.load(here / "iris.safetensors").settings
    assert (settings["hidden"], settings["epochs"], settings["learning_rate"]) == ([5, 6], 1, 1e-3)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("", "hidden", [256, 128, 64]),
        ("hidden: []", "hidden", []),
        ("hidden: [3, 4]", "hidden", [3, 4]),
        ("activation: elu", "activation", ["elu"]),
        ("learning_rate: 1e-3", "learning_rate", 1e-3),
        ("optimizer: null", "optimizer", "adamw"),
        ("\ufeff# a byte order mark\n\nseed: &anchor 007", "seed", 7),
        ("{seed: '8'}", "seed", 8),
    ],
)
def test_what_a_configuration_may_say(run, here, text, name, value):
    (here / "run.yaml").write_text(text)
    run("train", "--config", "run.yaml", "iris", "--epochs", "1")
    assert Model.load(here / "iris.safetensors").settings[name] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nepochz: 3", "2: unknown option 'epochz'; did you mean 'epochs'?"),
        ("config: other.yaml", "1: unknown option 'config'"),
        ("help: true", "1: unknown option 'help'"),
        ("epochs: 3\nseed: 1\nepochs: 4", "3: 'epochs' is there already; remove one of the lines"),
        ("l2: 0\nclip-norm: 1\nclip_norm: 1", "3: 'clip_norm' is there already; remove"),
        ("1: 3", "1: the name of an option must be a plain word; write lines such as 'epochs: 20'"),
        ("seed: 1\n? [a, b]\n: 3", "2: the name of an option must be a plain word; "),
        ("seed: 1\nnull: 2", "2: the name of an option must be a plain word; "),
        ("<<: {seed: 1}", "1: the name of an option must be a plain word; "),
        ("epochs: many", "1: epochs must be a whole number, got 'many'"),
        ("epochs: 1.0", "1: epochs must be a whole number, got '1.0'"),
        ("epochs: 0x10", "1: epochs must be a whole number, got '0x10'"),
        ("epochs: true", "1: epochs must be a whole number, got 'true'"),
        ("epochs: [1]", "1: epochs must be one word, got a list"),
        ("epochs: 2021-99-99", "1: epochs must be a whole number, got '2021-99-99'"),
        ("l2: .inf", "1: l2 must be a number, got '.inf'"),
        ("activation: []", "1: activation must be one word or more, got an empty list"),
        ("no_kernels: 1", "1: no_kernels must be true or false, got '1'"),
        ("no_kernels: [true]", "1: no_kernels must be one word, got a list"),
        ("hidden: {a: 1}", "1: hidden must be a word or a list of words; "),
        ("seed: 1\nhidden: [1, [2]]", "2: a list must hold words alone; write lines"),
        ("optimizer: sdg", "1: optimizer must be one of gd, "),
        ("optimizer: !!python/name:os.system ls", "1: optimizer must be one of gd, "),
        ("- epochs", "1: expected the name of an option and a colon; write lines such as"),
        ("epochs", "1: expected the name of an option and a colon; write lines such as"),
        ("seed: 1\na: [", "2: expected the node content, but found '<stream end>'; write lines"),
        ("seed: 1\n--- \nseed: 2", "2: but found another document; write lines such as"),
        ("seed: 1\ntarget: a\x1bb", "2: unacceptable character #x001b: special characters are"),
        ("seed: 1\n\xff", "2: is not UTF-8 text"),
        ("a: &a [x]\nb: *a", "2: an alias (*) stands for nothing here; write lines such as"),
        ("a: &a [x]\n" + "".join(f"{c}: &{c} [*a, *a]\n" for c in "bcdefghi"), "2: an alias"),
        ("hidden: " + "[" * 60_000, "1: a list must hold words alone; write lines such as"),
        ("hidden:\n" + "".join(" " * n + "-\n" for n in range(300)), "4: a list must hold words"),
        ("{" * 60_000, "1: a list must hold words alone; write lines such as"),
    ],
)
def test_what_a_configuration_may_not_say(error, here, text, message):
    (here / "run.yaml").write_bytes(text.encode("latin-1"))
    line = error("train", "iris", "--config", "run.yaml")
    assert line.startswith(f"run.yaml, line {message}")


def test_words_are_text_whatever_yaml_makes_of_them(run, here):
    (here / "run.yaml").write_text(
        "source: 2021-01-01\ntarget: no\ndrop: [012, 1e3, ~, yes, '', -x, --debug]\ntest: null\n"
        "no_kernels: off\noutput: ='a b'\n"
    )
    config = yaml.safe_load(run("train", "--config", "run.yaml", "--print-config"))
    assert config["source"] == "2021-01-01"
    assert config["target"] == ["no"]
    assert config["drop"] == ["012", "1e3", "~", "yes", "", "-x", "--debug"]
    assert (config["test"], config["no_kernels"], config["output"]) == (None, False, "='a b'")
    (here / "again.yaml").write_text(run.out)
    assert run("train", "--config", "again.yaml", "--print-config") == yaml.safe_dump(
        config, sort_keys=False
    )


def test_a_configuration_says_a_flag(run, here):
    (here / "run.yaml").write_text("no-kernels: yes")
    assert yaml.safe_load(run("train", "--config=run.yaml", "--print-config"))["no_kernels"] is True


def test_what_is_printed_is_read_again_in_any_encoding(run, here, monkeypatch):
    given = ["train", "\x1b]0;x\x07.csv", "--target", "blau ü", "--drop", "\u202ea", "-"]
    (here / "run.yaml").write_text(run(*given, "--print-config"))
    assert run.out.isascii()
    config = yaml.safe_load(run("train", "--config", "run.yaml", "--print-config"))
    assert (config["source"], config["target"]) == (given[1], [given[3]])
    assert config["drop"] == given[-2:]
    assert "target:\n- blau ü\n" in run("train", "iris", "--target", "blau ü", "--print-config")


def test_what_is_no_list_of_options(error, here):
    (here / "long.yaml").write_bytes(b"# \n" * 2**15 + b"\n")
    assert error("train", "--config", "long.yaml") == (
        "long.yaml has more than 65,536 bytes, and is no list of options"
    )
    assert "is a folder" in error("train", "--config", str(here))
    if hasattr(os, "mkfifo"):
        os.mkfifo(here / "pipe")
        assert error("train", "--config", "pipe").startswith("pipe ")
        assert error("train", "--config", "/dev/zero").startswith("/dev/zero ")
