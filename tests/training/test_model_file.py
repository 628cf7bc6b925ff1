"""Model files: what is written comes back equal, and nothing else is ever loaded.

The damage is made by hand: cut and altered bytes, and headers that are wrong in one place but
have the right SHA-256, as a file from somebody who means ill would.
"""

import ast
import errno
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes

import nnaccel
from nnaccel.maths import activations, initializers, losses
from nnaccel.maths.layers import LAYERS, Dense, Dropout, LayerNorm, Residual, example
from nnaccel.maths.network import Network, layout, mlp
from nnaccel.training import model_file, safe_file
from nnaccel.training.architecture import layer_fields
from nnaccel.training.model_file import is_model, load, save
from nnaccel.training.safe_file import digest, metadata
from nnaccel.training.step import initialize

RELU = activations.get("relu")
# Every layer, one of each option, layers inside of a layer.
EVERYTHING = Network(
    3,
    (
        Dense(6, activations.get("leaky_relu", slope=0.2), "he_normal"),
        Dropout(0.25),
        Residual((LayerNorm(1e-4), Dense(6, RELU), Residual((Dropout(0.5),)), Dense(6))),
        Dense(2),
    ),
)
SMALL = mlp(2, [3], 1, activation="tanh")


def params_of(network, dtype="float32", members=None):
    return initialize(network, 0, members=members).astype(dtype)


def saved(path, network=SMALL, params=None, **options):
    """The path of a model file."""
    options = {"loss": "squared_error", **options}
    save(path, network, params_of(network) if params is None else params, **options)
    return path


def fails(path, *words):
    """`load` refuses the file in one line that names it and says what is wrong."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the message is checked below
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a model that can be used: ")
    assert "\n" not in message
    for word in words:
        assert word in message


# ---------------------------------------------------------------------------- there and back


def test_equal_models_are_equal_files(tmp_path):
    files = {saved(tmp_path / "m", EVERYTHING, extra={"a": 1}).read_bytes() for _ in range(16)}
    assert len(files) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("members", [None, 4])
def test_what_is_saved_comes_back_equal(tmp_path, dtype, members):
    params = params_of(EVERYTHING, dtype, members)
    loss = losses.get("huber", delta=2.5)
    extra = {"a": [1, 2.5, None, True], "ü": {"b": "text"}}
    found = load(saved(tmp_path / "m", EVERYTHING, params, loss=loss, extra=extra))
    assert found.network == EVERYTHING
    assert found.loss == loss
    assert found.extra == extra
    assert found.params.dtype == dtype
    np.testing.assert_array_equal(found.params, params)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_every_activation(tmp_path, name):
    network = mlp(2, [3], 1, activation=name)
    assert load(saved(tmp_path / "m", network)).network == network


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss(tmp_path, name):
    assert load(saved(tmp_path / "m", loss=name)).loss == losses.LOSSES[name]


def test_several_quantiles(tmp_path):
    loss = losses.get("pinball", quantile=(0.1, 0.5, 0.9))
    assert load(saved(tmp_path / "m", mlp(2, [3], 3), loss=loss)).loss == loss


@pytest.mark.parametrize("name", ["auto", *initializers.INITIALIZERS])
def test_every_initializer(tmp_path, name):
    network = mlp(2, [3], 1, initializer=name)
    assert load(saved(tmp_path / "m", network)).network == network


def test_params_of_every_library(tmp_path, xp_device):
    params = params_of(SMALL)
    found = load(saved(tmp_path / "m", params=xp_device.asarray(params)))
    np.testing.assert_array_equal(found.params, params)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_says_all_its_fields(name):
    assert list(layer_fields(LAYERS[name])) == [field.name for field in fields(LAYERS[name])]


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(tmp_path, name):
    network = Network(3, (example(name, 3), Dense(1)))
    assert load(saved(tmp_path / "m", network)).network == network


def test_a_field_that_no_data_describe_is_refused_when_the_file_is_written(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Scaled(LayerNorm):
        table: dict | None = None

    monkeypatch.setitem(LAYERS, "scaled", Scaled)
    with pytest.raises(TypeError, match="the field 'table' of a Scaled layer: its type must be"):
        saved(tmp_path / "m", Network(2, (Scaled(), Dense(1))))


def test_a_value_that_could_not_be_loaded_is_not_written(tmp_path):
    layer = LayerNorm()
    object.__setattr__(layer, "epsilon", 0.0)  # which making one refuses
    network = Network(2, (layer, Dense(1)))
    with pytest.raises(ValueError, match="layer_norm layer: 'epsilon' must be a positive"):
        saved(tmp_path / "m", network)


# ---------------------------------------------------------------------------- what is not written


def cube(Z, *, xp):
    return Z * Z * Z


def cube_vjp(dA, Z, A, *, xp):
    return dA * 3.0 * Z * Z


def test_an_activation_of_ones_own_is_refused_with_the_remedy(tmp_path):
    custom = activations.Activation("cube", cube, cube_vjp)
    with pytest.raises(ValueError, match="'cube'.*add it there, and wherever the file is loaded"):
        saved(tmp_path / "m", mlp(2, [3], 1, activation=custom))
    assert not list(tmp_path.iterdir())


def test_once_it_is_in_the_table_it_is_not_refused(tmp_path, monkeypatch):
    custom = activations.Activation("cube", cube, cube_vjp)
    monkeypatch.setitem(activations.ACTIVATIONS, "cube", custom)
    network = mlp(2, [3], 1, activation="cube")
    path = saved(tmp_path / "m", network)
    assert load(path).network == network
    monkeypatch.delitem(activations.ACTIVATIONS, "cube")
    fails(path, "'cube'")


def test_a_borrowed_name_is_refused(tmp_path):
    network = Network(2, (Dense(3, activations.Activation("relu", cube, cube_vjp)), Dense(1)))
    with pytest.raises(ValueError, match="cannot hold the activation 'relu'"):
        saved(tmp_path / "m", network)
    loss = losses.Loss("squared_error", losses.absolute_error, losses.identity)
    with pytest.raises(ValueError, match="cannot hold the loss 'squared_error'"):
        saved(tmp_path / "m", loss=loss)


def test_a_layer_of_ones_own_is_refused(tmp_path):
    class Mine(LayerNorm):
        pass

    with pytest.raises(ValueError, match="cannot hold a Mine layer; it knows dense, dropout"):
        save(tmp_path / "m", Network(2, (Mine(), Dense(1))), np.zeros(7), loss="squared_error")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_refused(tmp_path, value):
    params = params_of(SMALL)
    params[3] = value
    with pytest.raises(ValueError, match="params must be .* finite"):
        saved(tmp_path / "m", params=params)


@pytest.mark.parametrize(
    "params", [np.zeros(3), np.zeros((2, 2, 13)), np.zeros(13, int), np.zeros(13, "float16")]
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, params):
    assert layout(SMALL).size == 13
    with pytest.raises(ValueError, match="params must be"):
        saved(tmp_path / "m", params=params)


@pytest.mark.parametrize("extra", [{"a": object()}, {"a": float("nan")}, {"a": np.float32(1)}])
def test_extra_that_is_no_json_is_refused(tmp_path, extra):
    with pytest.raises(ValueError, match="extra must be JSON-like data"):
        saved(tmp_path / "m", extra=extra)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- damage


def test_a_truncated_file_is_never_loaded(tmp_path):
    content = saved(tmp_path / "m", EVERYTHING).read_bytes()
    path = tmp_path / "cut"
    for length in {*range(0, len(content), 64), len(content) - 1}:
        path.write_bytes(content[:length])
        fails(path, "truncated" if length else "empty")


def test_an_altered_file_is_never_loaded(tmp_path):
    content = saved(tmp_path / "m", EVERYTHING).read_bytes()
    path = tmp_path / "altered"
    rng = np.random.default_rng(0)
    places = {*range(16), *rng.integers(0, len(content), 300).tolist(), len(content) - 1}
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        fails(path)


def test_bytes_that_follow_are_noticed(tmp_path):
    path = saved(tmp_path / "m")
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    fails(path)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x80\x04\x95pickle", b"PK\x03\x04" * 9])
def test_a_foreign_file(tmp_path, content):
    path = tmp_path / "m"
    path.write_bytes(content)
    fails(path, "no safetensors file" if content else "the file is empty")
    assert not is_model(path)


@pytest.mark.parametrize(
    "entries", [None, {}, {"format": "pt"}, {"nnaccel": "{"}, {"nnaccel": "3"}, {"nnaccel": "{}"}]
)
def test_a_foreign_safetensors_file(tmp_path, entries):
    path = tmp_path / "m"
    path.write_bytes(to_bytes({"params": np.zeros(3)}, entries))
    fails(path, "a safetensors file that nnaccel has not written")
    assert not is_model(path)


def test_an_entry_that_is_no_text(tmp_path):
    """Which safetensors itself does not write."""
    header = json.dumps({"__metadata__": {"nnaccel": 3}}).encode()
    path = tmp_path / "m"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    fails(path, "a safetensors file that nnaccel has not written")
    assert not is_model(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


# ---------------------------------------------------------------------------- a closed schema


def header_of(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"]["nnaccel"]
    return json.loads(text.partition("\n")[0])


def rebuilt(path, header, tensors=None):
    """The model file with that header, its SHA-256 as it should be."""
    text = header if isinstance(header, str) else json.dumps(header)
    tensors = {"params": load(path).params} if tensors is None else tensors
    forged = path.with_name("forged")
    forged.write_bytes(to_bytes(tensors, metadata(text, tensors)))
    return forged


def test_the_forgery_itself_is_good(tmp_path):
    path = saved(tmp_path / "m", EVERYTHING)
    assert load(rebuilt(path, header_of(path))).network == EVERYTHING


def test_a_later_version(tmp_path):
    path = saved(tmp_path / "m")
    forged = rebuilt(path, header_of(path) | {"version": model_file.FORMAT.version + 1})
    fails(forged, "written by a later nnaccel", "upgrade nnaccel")
    assert is_model(forged)


def objects(value, trail=()):
    """The way to every object in JSON data."""
    if isinstance(value, dict):
        yield trail
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from objects(inner, (*trail, key))


def at(data, trail):
    for key in trail:
        data = data[key]
    return data


def test_every_key_must_be_there_of_its_type_and_no_other(tmp_path):
    """Everywhere in the header but in `extra`, which is its owner's, and where options go."""
    path = saved(tmp_path / "m", EVERYTHING, loss=losses.get("huber", delta=2.0))
    text = json.dumps(header_of(path))
    for trail in list(objects(header_of(path))):
        if trail[:1] == ("extra",):
            continue
        altered = json.loads(text)
        at(altered, trail)["unheard_of"] = 1.0
        fails(rebuilt(path, altered))
        for key in at(json.loads(text), trail):
            if trail[-1:] != ("options",):  # an option that is absent has its default
                altered = json.loads(text)
                del at(altered, trail)[key]
                fails(rebuilt(path, altered))
            for wrong in (None, True, "no", [[]], {"no": {}}, -1e999):
                altered = json.loads(text)
                at(altered, trail)[key] = wrong
                if (trail, key) == ((), "extra") and isinstance(wrong, dict):
                    continue
                fails(rebuilt(path, altered))


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ((("n_inputs",)), 0, "'n_inputs' must be a positive integer below 2^31, got 0"),
        ((("n_inputs",)), 2.0, "'n_inputs' must be a positive integer"),
        ((("n_inputs",)), 2**40, "'n_inputs' must be a positive integer"),
        ((("n_inputs",)), 5, "must be float32 or float64 of shape"),
        ((("layers",)), [], "at least one layer"),
        (("layers", 0, "type"), "os.system", "type must be one of dense, dropout"),
        (("layers", 0, "units"), -1, "'units' must be a positive integer"),
        (("layers", 0, "initializer"), "eval", "'initializer' must be"),
        (("layers", 0, "activation", "name"), "os.system", "activation must be one of"),
        (("layers", 0, "activation", "options"), {"slope": "x"}, "'slope' must be a finite"),
        (("layers", 1, "rate"), 1.0, "'rate' must be a number from 0 to below 1"),
        (("layers", 2, "layers"), [], ""),
        (("layers", 2, "layers", 1, "units"), 7, ""),
        (("layers", 2, "layers", 0, "epsilon"), 0, "'epsilon' must be a positive"),
    ],
)
def test_values_out_of_range(tmp_path, where, value, words):
    path = saved(tmp_path / "m", EVERYTHING)
    header = header_of(path)
    at(header["network"], where[:-1])[where[-1]] = value
    fails(rebuilt(path, header), words)


@pytest.mark.parametrize("depth", [200, 5000])
def test_layers_inside_of_layers_without_end(tmp_path, depth):
    path = saved(tmp_path / "m")
    header = header_of(path)
    header["network"]["layers"] = "HERE"
    start, stop = '[{"type": "residual", "layers": ' * depth, "}]" * depth
    forged = rebuilt(path, json.dumps(header).replace('"HERE"', f"{start}[]{stop}"))
    fails(forged)


def test_tensors_must_be_the_parameters_alone_and_finite(tmp_path):
    path = saved(tmp_path / "m")
    header, params = header_of(path), params_of(SMALL)
    fails(rebuilt(path, header, {}), "there must be a tensor 'params', got")
    more = {"params": params, "more": params[1:]}
    fails(rebuilt(path, header, more), "the vector 'more' must be like params, float32 of shape")
    assert [*load(rebuilt(path, header, {"params": params, "more": params})).vectors] == ["more"]
    fails(rebuilt(path, header, {"params": params.astype("float16")}), "float32 or float64")
    fails(rebuilt(path, header, {"params": params[:-1]}), "of shape (13,)")
    params[0] = np.nan
    fails(rebuilt(path, header, {"params": params}), "finite")


def sealed(path, entry, tensors, body=b""):
    """A safetensors file, as safetensors would not write it."""
    header = json.dumps({"__metadata__": entry, **tensors}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    return path


OURS = {"nnaccel": "{}\n" + "0" * 64}
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def test_a_header_is_refused_before_its_tensors_are_built(tmp_path, monkeypatch):
    import safetensors.numpy

    def built(content):
        raise AssertionError("the tensors were built")

    monkeypatch.setattr(safetensors.numpy, "load", built)
    path = sealed(tmp_path / "m", OURS, {f"t{i}": EMPTY for i in range(100_000)})
    fails(path, "no safetensors file (more than 32 tensors)")
    assert not is_model(path)
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    fails(path, "no safetensors file (a header of 1,099,511,627,776 bytes)")
    path.write_bytes((200_000_000).to_bytes(8, "little"))
    os.truncate(path, 300_000_000)
    fails(path, "no safetensors file (a header of 200,000,000 bytes)")
    assert not is_model(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"params": {"dtype": "F32", "shape": [2**63, 4], "data_offsets": [0, 8]}},
        {"params": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**63]}},
        {"params": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"params": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"params": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}},
        {"params": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"params": {"dtype": "F32"}},
        {"params": [[[[]]]]},
    ],
)
def test_tensors_that_are_not_where_they_say(tmp_path, tensors):
    fails(sealed(tmp_path / "m", OURS, tensors, bytes(8)), "no safetensors file")


def test_the_digest_is_looked_at_before_the_content(tmp_path, monkeypatch):
    path = saved(tmp_path / "m")
    forged = rebuilt(path, header_of(path) | {"network": {}})
    fails(forged, "network has no key 'n_inputs'")

    def read(text, what):
        raise AssertionError("the content was used")

    content = forged.read_bytes()
    forged.write_bytes(content.replace(b"squared_error", b"squared_errox"))
    monkeypatch.setattr(safe_file.schema, "from_json", read)
    fails(forged, "its content has been altered since it was written (SHA-256)")


def test_what_no_digest_covers_is_refused(tmp_path):
    path = saved(tmp_path / "m")
    params = load(path).params
    text = json.dumps(header_of(path))
    entries = metadata(text, {"params": params}) | {"more": "1"}
    path.write_bytes(to_bytes({"params": params}, entries))
    fails(path, "a safetensors file that nnaccel has not written")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("NaN", "header must be JSON-like data: Out of range float values"),
        ("Infinity", "header must be JSON-like data: Out of range float values"),
        ("1e999", "header must be JSON-like data: Out of range float values"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"a": 1, "b": 2, "a": 3}', "header is no valid JSON: the key 'a' occurs twice"),
        ("[" * 99 + "]" * 99, "header has more than 100 lists and objects inside of each other"),
        ("[" * 10**6 + "]" * 10**6, "header has more than 100 lists and objects inside of each"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "more than 100 lists and objects inside of each"),
        ("9" * 5000, "header is no valid JSON: "),
    ],
)
def test_json_is_read_as_strictly_as_it_is_written(tmp_path, value, words):
    """Also where nobody looks: in what belongs to others, which is saved again."""
    path = saved(tmp_path / "m", extra={"mine": "HERE"})
    text = json.dumps(header_of(path))
    assert load(rebuilt(path, text.replace('"HERE"', "[" * 98 + "]" * 98))).extra
    fails(rebuilt(path, text.replace('"HERE"', value)), words)


def test_what_is_too_deep_or_too_long_to_be_loaded_is_not_written(tmp_path, monkeypatch):
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(
        ValueError, match="extra has more than 100 lists and objects inside of each"
    ):
        saved(tmp_path / "m", extra={"deep": deep})
    with pytest.raises(ValueError, match="extra must be JSON-like data: .*surrogates not allowed"):
        saved(tmp_path / "m", extra={"\ud800": 1})
    monkeypatch.setattr(safe_file, "LONGEST_HEADER", 1000)
    with pytest.raises(ValueError, match="a header may have 1,000 bytes, this one has 2,"):
        saved(tmp_path / "m", extra={"long": "x" * 1500})
    assert not list(tmp_path.iterdir())


def test_a_network_without_parameters_is_neither_written_nor_loaded(tmp_path):
    idle = Network(2, (Dropout(0.5),))
    with pytest.raises(ValueError, match=r"Network\(2, .*has no parameters"):
        save(tmp_path / "m", idle, np.zeros(0), loss="squared_error")
    path = saved(tmp_path / "m")
    header = header_of(path)
    header["network"]["layers"] = [{"type": "dropout", "rate": 0.5}]
    fails(rebuilt(path, header, {"params": np.zeros(0, "float32")}), "has no parameters")
    fails(rebuilt(path, header_of(path), {"params": np.zeros((0, 13), "float32")}), "not empty")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slope": [0.1, 0.2]}, "'slope' must be a finite number, got [0.1, 0.2]"),
        ({"slope": True}, "'slope' must be a finite number, got True"),
        ({"slope": 10**30}, "'slope' must be a finite number, got 1000"),
        ({"xp": 1}, "layer 0 has an unknown key 'xp'; known: slope"),
        ({"self": 1}, "layer 0 has an unknown key 'self'"),
        ({"slope": 0.1, "gain": 2.0}, "layer 0 has an unknown key 'gain'"),
    ],
)
def test_options_are_those_of_their_function(tmp_path, options, words):
    path = saved(tmp_path / "m", EVERYTHING)
    header = header_of(path)
    header["network"]["layers"][0]["activation"]["options"] = options
    fails(rebuilt(path, header), words)


def test_the_digest_covers_names_types_and_shapes():
    one = {"a": np.zeros(4, "float32"), "b": np.ones(2)}
    for other in (
        {"a": np.zeros(4, "int32"), "b": np.ones(2)},
        {"a": np.zeros((2, 2), "float32"), "b": np.ones(2)},
        {"A": np.zeros(4, "float32"), "b": np.ones(2)},
        {"a": np.zeros(4, "float32")},
    ):
        assert digest("text", one) != digest("text", other)
    assert digest("text", one) != digest("Text", one)
    assert digest("text", one) == digest("text", dict(reversed(one.items())))


def test_nothing_is_unpickled_or_evaluated_in_the_whole_library():
    for path in Path(nnaccel.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=module):
                    modules = [module or ""]
                case ast.Call(func=ast.Name(id=called)):
                    assert called not in ("eval", "exec", "compile", "__import__"), path
                    continue
                case ast.keyword(arg="allow_pickle", value=value):
                    assert isinstance(value, ast.Constant), path
                    assert value.value is False, path
                    continue
                case _:
                    continue
            roots = {name.partition(".")[0] for name in modules}
            assert not roots & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


# ---------------------------------------------------------------------------- writing


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, failing, error
):
    path = saved(tmp_path / "m")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(type(error)) as caught:
            saved(path, EVERYTHING)
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["m"]


def test_is_model_looks_at_the_header_alone(tmp_path):
    path = saved(tmp_path / "m")
    assert is_model(path)
    path.write_bytes(path.read_bytes()[:-4])  # damaged, but ours
    assert is_model(path)
