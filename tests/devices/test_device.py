"""The device flag, and the door between host and device."""

import ctypes
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nnaccel.devices import device as device_module
from nnaccel.devices import install_hints
from nnaccel.devices.available import available, unusable
from nnaccel.devices.device import Device, device_of, dtype_of, prepare, select, to_host
from tests import conftest

# Names


@pytest.mark.parametrize("spec", ["cpu", "cpu:0", None, select("cpu")])
def test_numpy_is_the_cpu(spec):
    device = select(spec)
    assert device.name == "cpu"
    assert device.library == "numpy"
    assert device.xp.__name__ == "array_api_compat.numpy"
    assert device.handle is None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("torch", "torch:cpu"),
        ("torch:cpu", "torch:cpu"),
        ("jax:cpu", "jax:cpu:0"),
        ("jax:cpu:0", "jax:cpu:0"),
    ],
)
def test_names_are_made_canonical_and_can_be_given_again(spec, name):
    pytest.importorskip(spec.partition(":")[0])
    assert select(spec).name == name
    assert select(select(spec).name) == select(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("cdua", "did you mean 'cuda'?"),
        ("CPU", "did you mean 'cpu'?"),
        ("gpu", "did you mean 'cuda'?"),
        ("numpy", "did you mean 'cpu'?"),
        ("cuda:-1", "did you mean 'cuda'?"),
        ("cuda:", "did you mean 'cuda'?"),
        ("jax:cuda:1", "did you mean 'jax:gpu'?"),
        ("torch:cpuu", "did you mean 'torch:cpu'?"),
        ("auto:0", "did you mean 'auto'?"),
        ("abacus", "got 'abacus'"),
        ("", "got ''"),
    ],
)
def test_an_unknown_name_lists_the_names_and_the_closest(spec, hint):
    with pytest.raises(ValueError, match="^device must be one of auto, cpu, cuda, ") as raised:
        select(spec)
    assert str(raised.value).endswith(hint)


@pytest.mark.parametrize("spec", [0, b"cpu", ["cpu"], np])
def test_what_is_no_name_is_a_type_error(spec):
    with pytest.raises(TypeError, match="device must be a name such as 'cpu'"):
        select(spec)


def test_a_number_out_of_range_says_how_many_there_are():
    with pytest.raises(ValueError, match="device 'cpu:1' needs a number below 1, .*'cpu'$"):
        select("cpu:1")


# Following the arrays that are given


def test_none_follows_the_arrays(xp_device):
    x = xp_device.asarray(np.ones((2, 3)))
    assert select(None, x, [1, 2], None, x) == xp_device.device == device_of(x)


def test_lists_and_tables_are_on_no_device():
    pandas = pytest.importorskip("pandas")
    assert select(None, [[1.0]], pandas.DataFrame({"a": [1]}), None).name == "cpu"


def test_two_libraries_or_two_devices_are_an_error_that_names_both():
    strict = pytest.importorskip("array_api_strict")
    first, second = (strict.ones(2, device=strict.Device(d)) for d in ("CPU_DEVICE", "device1"))
    with pytest.raises(ValueError, match="arrays are on 'cpu' and .array_api_strict:.*CPU_DEVICE"):
        select(None, np.ones(2), first)
    with pytest.raises(ValueError, match="arrays are on .*CPU_DEVICE.* and .*device1"):
        select(None, first, second)


# The door


def test_host_to_device_and_back(xp_device):
    device = xp_device.device
    for x in (np.arange(6.0).reshape(2, 3), np.arange(3), np.array(True), np.zeros((0, 4))):
        array = device.asarray(x)
        assert device_of(array).name == device.name
        assert array.dtype == dtype_of(device, x.dtype.name)
        back = to_host(array)
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, x, strict=True)


def test_lists_and_tables_get_the_named_dtype(xp_device):
    pandas = pytest.importorskip("pandas")
    device = xp_device.device
    for x in ([[1, 2], [3, 4]], pandas.DataFrame({"a": [1, 3], "b": [2.0, 4.0]})):
        array = device.asarray(x, "float32")
        assert array.dtype == device.xp.float32
        np.testing.assert_array_equal(to_host(array), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.arange(6, dtype=">f4"), id="big-endian"),
        pytest.param(np.arange(6.0)[::-1], id="reversed"),
        pytest.param(np.arange(12.0).reshape(3, 4).T[1:, ::2], id="strided"),
        pytest.param(np.broadcast_to(np.float32(1), (2, 3)), id="broadcast, read-only"),
    ],
)
def test_unusual_numpy_arrays_arrive_whole(xp_device, x):
    np.testing.assert_array_equal(to_host(xp_device.device.asarray(x)), x)


@pytest.mark.parametrize(
    "form", ["plain", "by columns", "a part of the columns", "every other row"]
)
def test_rows_come_together(xp_device, form):
    x = xp_device.asarray(np.arange(48.0).reshape(6, 8))
    parts = {
        "by columns": xp_device.xp.matrix_transpose(x),
        "a part of the columns": x[:, 1:],
        "every other row": x[::2, :],
    }
    part = parts.get(form, x)
    rows = xp_device.device.in_rows(part)
    np.testing.assert_array_equal(xp_device.to_numpy(rows), to_host(part), strict=True)
    if xp_device.device.library in ("numpy", "cupy"):
        assert rows.flags.c_contiguous
    elif xp_device.device.library == "torch":
        assert rows.is_contiguous()
    if form == "plain":
        assert rows is x


def test_every_library_reaches_every_other(xp_device):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    source = xp_device.asarray(x)
    for spec in ("cpu", "torch:cpu", "jax:cpu"):
        try:
            target = select(spec)
        except ImportError:
            continue
        array = target.asarray(source)
        assert device_of(array) == target
        np.testing.assert_array_equal(to_host(array), x, strict=True)
        np.testing.assert_array_equal(to_host(target.asarray(source, "float64")), x)
    back = xp_device.device.asarray(select("cpu").asarray(source))
    assert device_of(back).name == xp_device.device.name


def test_copy_gives_memory_of_its_own(xp_device):
    x = np.arange(4.0)
    array = xp_device.device.asarray(x, copy=True)
    x[:] = -1
    np.testing.assert_array_equal(to_host(array), np.arange(4.0))


def test_copy_false_is_refused_where_it_cannot_be_kept():
    assert select("cpu").asarray(x := np.ones(3), copy=False) is x
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(ValueError, match="copy=False needs an array of numpy, got Array"):
        select("cpu").asarray(strict.ones(3), copy=False)


def test_pytorch_on_the_cpu_shares_memory_and_leaves_its_gradient_behind():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, requires_grad=True)
    host = select("cpu").asarray(tensor)
    assert host.ctypes.data == tensor.data_ptr()
    assert select("torch").asarray(host).data_ptr() == tensor.data_ptr()
    assert not select("torch").asarray(tensor).requires_grad


def test_protected_memory_is_not_given_to_pytorch():
    pytest.importorskip("torch")
    x = np.zeros(3)
    x.flags.writeable = False
    select("torch").asarray(x)[0] = 1
    assert x[0] == 0


def test_jax_on_the_cpu_becomes_a_read_only_view():
    jax = pytest.importorskip("jax")
    x = jax.numpy.zeros(3)
    assert not select("cpu").asarray(x).flags.writeable
    pytest.importorskip("torch")
    select("torch").asarray(x)[0] = 1
    assert x[0] == 0


def test_synchronize_and_context(xp_device):
    x = xp_device.asarray(np.ones(3))
    with xp_device.device.context(), xp_device.device.context():
        y = x + x
    xp_device.device.synchronize(y)
    np.testing.assert_array_equal(xp_device.to_numpy(y), [2, 2, 2])


# dtypes


def test_dtypes_have_names(xp_device):
    assert dtype_of(xp_device.device, "float32") == xp_device.xp.float32
    with pytest.raises(ValueError, match="dtype must be one of bool, .*got 'float'"):
        dtype_of(xp_device.device, "float")
    with pytest.raises(ValueError, match="dtype 'bfloat16' is not to be had on 'cpu'"):
        dtype_of(select("cpu"), "bfloat16")


def test_jax_without_x64_refuses_float64_until_prepared():
    jax = pytest.importorskip("jax")
    device = select("jax:cpu")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="jax.config.update\\('jax_enable_x64', True\\)"):
            device.asarray([1.0], "float64")
        assert device.asarray([1.0]).dtype == "float32"
        prepare(select("cpu"), "float64")
        prepare(device, "float32")
        assert not jax.config.jax_enable_x64
        prepare(device, "float64")
        assert device.asarray([1.0], "float64").dtype == "float64"
    finally:
        jax.config.update("jax_enable_x64", True)


def test_apples_gpus_have_no_float64():
    mps = Device("torch:mps", select("cpu").xp, None)
    with pytest.raises(ValueError, match="'float64' is not to be had on 'torch:mps'"):
        dtype_of(mps, "float64")


# CUDA that is missing, without CUDA


class CUDARuntimeError(RuntimeError):
    pass


class FakeDevice(SimpleNamespace):
    mem_info = (10, 80)

    def __init__(self, id):
        super().__init__(id=id)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class LibrariesMissing(SimpleNamespace):
    """A `cupy.cuda` that looks for cuBLAS in vain."""

    def __getattr__(self, name):
        raise ImportError(f'Failure finding "libcublasLt.so.13": No such file: {name}')


def fake_cupy(monkeypatch, count, *, libraries=True):
    """A CuPy that sees `count` device, or raises what it is given instead."""

    def get_device_count():
        if isinstance(count, Exception):
            raise count
        return count

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=get_device_count,
        getDeviceProperties=lambda index: {"name": f"GPU {index}".encode()},
    )
    nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    cuda = LibrariesMissing(runtime=runtime, Device=FakeDevice, nvrtc=nvrtc)
    if libraries:
        cuda.cublas = SimpleNamespace()
    pools = [SimpleNamespace(freed=0, free_bytes=lambda: 5) for _ in range(2)]
    for pool in pools:
        pool.free_all_blocks = lambda pool=pool: setattr(pool, "freed", pool.freed + 1)
    module = SimpleNamespace(
        cuda=cuda,
        get_default_memory_pool=lambda: pools[0],
        get_default_pinned_memory_pool=lambda: pools[1],
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    xp = SimpleNamespace(__name__="array_api_compat.cupy")
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", xp)
    return pools


@pytest.fixture(params=[None, 12040, 13000], ids=["no driver", "CUDA 12.4", "CUDA 13.0"])
def driver(request, monkeypatch):
    monkeypatch.setattr(install_hints, "cuda_driver", lambda: request.param)
    return request.param


def test_cupy_not_installed(monkeypatch, driver):
    monkeypatch.setitem(sys.modules, "cupy", None)
    extra = "cuda13" if driver == 13000 else "cuda12"
    with pytest.raises(ImportError) as raised:
        select("cuda")
    assert str(raised.value).startswith(
        "device 'cuda' needs CuPy, which is not installed; "
        f"run: python -m pip install 'nnaccel[{extra}]'"
    )
    assert ("or cuda13" in str(raised.value)) == (driver is None)
    assert select("auto").name == "cpu"


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (CUDARuntimeError("cudaErrorInsufficientDriver: too old"), "cudaErrorInsufficientDriver"),
        (CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device"), "cudaErrorNoDevice"),
        (0, "no device"),
    ],
)
def test_cupy_installed_without_a_device(monkeypatch, driver, count, reason):
    fake_cupy(monkeypatch, count)
    with pytest.raises(RuntimeError, match="device 'cuda' needs an NVIDIA GPU.*") as raised:
        select("cuda:1")
    assert reason in str(raised.value)
    assert ("no NVIDIA driver" in str(raised.value)) == (driver is None)
    assert ("replace CuPy" in str(raised.value)) == bool(driver and "Driver" in reason)
    assert select("auto").name == "cpu"


def test_cupy_with_devices(monkeypatch):
    fake_cupy(monkeypatch, 2)
    assert select("cuda").name == select("cuda:0").name == select("auto").name == "cuda:0"
    assert select("cuda:1").handle == FakeDevice(1)
    assert select("cuda:1").context() == FakeDevice(1)
    with pytest.raises(ValueError, match="'cuda:2' needs a number below 2, .*'cuda:1'$"):
        select("cuda:2")


def test_memory_of_a_gpu_is_what_is_free_and_what_the_pool_keeps(monkeypatch):
    pools = fake_cupy(monkeypatch, 1)
    assert select("cuda").memory_free() == 10 + 5
    select("cuda").give_back()
    assert [pool.freed for pool in pools] == [1, 1]


def test_memory_that_pytorch_and_jax_have(monkeypatch):
    torch = pytest.importorskip("torch")
    for name, value in {
        "mem_get_info": (100, 800),
        "memory_reserved": 30,
        "memory_allocated": 10,
        "empty_cache": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    device = Device("torch:cuda:0", select("torch").xp, torch.device("cuda", 0))
    assert device.memory_free() == 120
    device.give_back()
    jax = pytest.importorskip("jax")
    for stats, free in (({"bytes_limit": 70, "bytes_in_use": 30}, 40), ({}, None), (None, None)):
        handle = SimpleNamespace(memory_stats=lambda stats=stats: stats)
        assert Device("jax:gpu:0", jax.numpy, handle).memory_free() == free


def test_a_device_holds_its_arrays_and_those_of_other_libraries_on_the_same_gpu(
    xp_device, monkeypatch
):
    x = xp_device.asarray(np.ones(2))
    assert xp_device.device.holds(x)
    assert xp_device.device.holds(np.ones(2)) == (xp_device.device.name == "cpu")
    monkeypatch.setattr(device_module, "_same_gpu", lambda *_: True)
    assert xp_device.device.holds(np.ones(2))


def test_arrays_of_one_gpu_go_from_library_to_library_by_dlpack(monkeypatch):
    """On the CPU, which the three share as they share a GPU."""
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(device_module, "_same_gpu", lambda *_: True)
    monkeypatch.setattr(device_module, "to_host", lambda x: pytest.fail("it went through the host"))
    x = torch.arange(12.0).reshape(3, 4)
    for view in (x, x.T, x[:, ::2], x[:0]):
        array = select("jax:cpu").asarray(view)
        assert array.tolist() == view.tolist()
        assert select("torch").asarray(array).tolist() == view.tolist()
    array = select("jax:cpu").asarray(x)
    x[0, 0] = -1
    select("torch").asarray(array)[0, 0] = -2
    assert array[0, 0] == 0  # nobody writes to what JAX has
    assert isinstance(array, jax.Array)


def test_cupy_without_the_libraries_of_cuda(monkeypatch):
    fake_cupy(monkeypatch, 1, libraries=False)
    monkeypatch.setattr(install_hints, "cuda_driver", lambda: 13000)
    said = r"needs the libraries of CUDA, .*libcublasLt.*run: python -m pip install 'cupy-cuda13x\["
    with pytest.raises(ImportError, match=said):
        select("cuda")
    assert select("auto").name == "cpu"
    monkeypatch.setattr(install_hints, "has_distribution", lambda name: name == "cupy-cuda12x")
    with pytest.raises(ImportError, match=r"'cupy-cuda12x\[ctk\]'$"):
        select("cuda")


def test_cupys_own_report_of_what_is_missing_is_one_line(monkeypatch):
    def broken(name):
        try:
            raise ImportError("libcudart.so.12: cannot open shared object file")
        except ImportError as error:
            raise ImportError("\n======\nFailed to import CuPy.\n\n======\n") from error

    monkeypatch.setattr(install_hints, "import_module", broken)
    with pytest.raises(ImportError, match=r"cannot be imported \(libcudart.so.12: cannot open"):
        select("cuda")
    assert install_hints.first_line(ImportError("\n=====\n  Failed.\n")) == "Failed."
    assert install_hints.first_line(ImportError("")) == "ImportError"


class CompileException(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "match"),
    [
        ("cudaErrorUnsupportedPtxVersion: the provided PTX was compiled", "update the driver"),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX", "a driver that is older"),
        ("cudaErrorNoKernelImageForDevice: no kernel image is available", "does not serve"),
        ("CUDA error: no kernel image is available for execution\nmore", "does not serve"),
        (CompileException("nvrtc: error: invalid value for --gpu-architecture"), "does not serve"),
        ('Failure finding "libnvrtc.so.13": No such file', r"run: .*\[ctk\]"),
        (ImportError("libcublas.so.12: cannot open shared object file"), r"run: .*\[ctk\]"),
        (CompileException("cannot open source file cuda_fp16.h\n1 error"), "cannot compile"),
        ("cudaErrorIllegalAddress: an illegal memory access", None),
        (ValueError("X has no rows"), None),
    ],
)
def test_what_a_gpu_says_when_it_is_first_used(monkeypatch, error, match):
    fake_cupy(monkeypatch, 1)
    error = CUDARuntimeError(error) if isinstance(error, str) else error
    said = unusable(select("cuda"), error)
    if match is None:
        assert said is None
    else:
        assert re.search(match, said)
        assert said.startswith("device 'cuda:0' ")
        assert "\n" not in said


def test_a_broken_library_is_an_import_error_with_its_reason(monkeypatch):
    def broken(name):
        raise AttributeError("built against another NumPy\nand much more")

    monkeypatch.setattr(install_hints, "import_module", broken)
    with pytest.raises(ImportError, match=r"cannot be imported \(built against another NumPy\);"):
        select("torch")


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_pytorch_or_jax_not_installed(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"not installed; run: python -m pip install {library}$"):
        select(library)


def test_pytorch_without_a_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match="'torch:cuda' needs a CUDA device, .* without CUDA; "):
        select("torch:cuda:0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RuntimeError, match="a PyTorch that sees none; see what nvidia-smi shows"):
        select("torch:cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="'torch:mps' needs macOS and an Apple GPU, found"):
        select("torch:mps")


def test_jax_without_a_gpu(monkeypatch):
    jax = pytest.importorskip("jax")

    def none(backend):
        raise RuntimeError(f"Unknown backend: {backend!r}")

    monkeypatch.setattr(jax, "local_devices", none)
    with pytest.raises(RuntimeError, match=r"'jax:gpu' needs a gpu backend.* 'jax\[cuda1[23]\]'"):
        select("jax:gpu")
    with pytest.raises(RuntimeError, match=r"'jax:tpu' needs a tpu backend.* 'jax\[tpu\]'"):
        select("jax:tpu:1")


def test_the_driver_is_asked_without_cupy(monkeypatch):
    def cdll(name):
        return SimpleNamespace(cuDriverGetVersion=answer)

    def answer(pointer):
        pointer._obj.value = 12080
        return 0

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    assert install_hints.cuda_driver() == 12080
    assert install_hints.install_command("cupy") == "python -m pip install 'nnaccel[cuda12]'"


# The list


def test_available_lists_what_can_be_selected():
    rows = available()
    assert rows[0].name == "cpu"
    assert rows[0].library == f"NumPy {np.__version__}"
    assert "cores" in rows[0].hardware
    assert rows[0].problem == ""
    for row in rows:
        if not row.problem:
            assert select(row.name).name.startswith(row.name)


def test_available_gives_the_hardware_of_a_gpu(monkeypatch):
    fake_cupy(monkeypatch, 2)
    monkeypatch.setattr(install_hints, "cuda_driver", lambda: 13000)
    rows = [row for row in available() if row.name.startswith("cuda")]
    assert [row.name for row in rows] == ["cuda:0", "cuda:1"]
    assert rows[1].hardware == "GPU 1"
    assert (rows[1].memory_total, rows[1].memory_free) == (80, 10)


def test_available_survives_what_is_missing_or_broken(monkeypatch):
    monkeypatch.setattr(install_hints, "cuda_driver", lambda: 13000)
    fake_cupy(monkeypatch, ValueError("the driver is on fire\nand so on"))
    monkeypatch.setitem(sys.modules, "torch", None)
    problems = {row.name: row.problem for row in available()}
    assert problems["cpu"] == ""
    assert problems["cuda"] == "the driver is on fire"
    assert problems["torch:cpu"].endswith("run: python -m pip install torch")


def test_only_the_library_that_is_asked_for_is_imported():
    code = (
        "import sys; from nnaccel.devices.device import *; import numpy as np; select('cpu');"
        "select(None, [1]); select(None, np.ones(2)); to_host(select('cpu').asarray([1], 'int8'));"
        "print(*{'cupy', 'torch', 'jax'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


# On a GPU


@pytest.mark.gpu
def test_cupy_shares_the_gpu_with_pytorch():
    try:
        device = select("cuda")
        other = select("torch:cuda")
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    x = device.asarray(np.arange(6, dtype=np.float32))
    tensor = other.asarray(x)
    assert tensor.data_ptr() == x.data.ptr
    assert device.asarray(tensor).data.ptr == x.data.ptr


def test_what_needs_a_gpu_says_so_and_is_skipped_without(monkeypatch):
    """As beside a CuPy that finds no driver, whose first array raises."""
    fake_cupy(monkeypatch, CUDARuntimeError("cudaErrorInsufficientDriver: no driver"))
    names = "check(array_namespace=cupy,dtype_name=None)", "check(array_namespace=numpy)"
    marks = {name: [] for name in names}
    items = [SimpleNamespace(name=name, add_marker=marks[name].append) for name in names]
    conftest.pytest_collection_modifyitems(items)
    assert [[mark.name for mark in marks[name]] for name in names] == [["gpu"], []]
    plain, marked = (SimpleNamespace(get_closest_marker=x.get) for x in ({}, {"gpu": "a mark"}))
    conftest.pytest_runtest_setup(plain)
    with pytest.raises(pytest.skip.Exception, match="device 'cuda' needs an NVIDIA GPU"):
        conftest.pytest_runtest_setup(marked)


# Integers never wrap


BIG = [
    pytest.param(np.array([-1, 5_000_000_000]), "int32", -1, id="int64"),
    pytest.param(np.array([-1, 5_000_000_000], ">i8"), "int32", -1, id="big-endian"),
    pytest.param(np.array([0, 5_000_000_000], "uint64"), "uint32", 0, id="uint64"),
    pytest.param([0, 5_000_000_000], "int32", 0, id="list"),
]


@pytest.mark.parametrize(("x", "dtype", "least"), BIG)
def test_jax_without_x64_does_not_wrap_long_integers(jax_of_32_bits, x, dtype, least):
    message = (
        rf"integers from {least} to 5000000000 do not fit {dtype} on 'jax:cpu:0'; run "
        r"jax.config.update\('jax_enable_x64', True\), or make them floating"
    )
    with pytest.raises(ValueError, match=message):
        jax_of_32_bits.asarray(x)
    assert not jax_of_32_bits.keeps(np.asarray(x))
    # A number is one in floating numbers too.
    assert to_host(jax_of_32_bits.asarray(x, "float32")).tolist() == [least, 5e9]


def test_jax_without_x64_takes_long_integers_that_are_short_numbers(jax_of_32_bits):
    for x in (np.array([-(2**31), 2**31 - 1]), np.array([0, 2**32 - 1], "uint64")):
        array = jax_of_32_bits.asarray(x)
        assert array.dtype == ("int32" if x.dtype == "int64" else "uint32")
        assert to_host(array).tolist() == x.tolist()
        assert jax_of_32_bits.keeps(x)
    assert jax_of_32_bits.asarray(np.zeros((0, 3), "int64")).shape == (0, 3)


def test_a_tensor_of_pytorch_does_not_wrap_on_jax(jax_of_32_bits):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="integers from 1 to 5000000000 do not fit int32"):
        jax_of_32_bits.asarray(torch.tensor([1, 5_000_000_000]))


@pytest.mark.parametrize(
    ("x", "dtype"),
    [([300], "uint8"), ([-1], "uint64"), ([2**63], "int64"), ([5_000_000_000], "int32")],
)
def test_an_integer_dtype_that_is_asked_for_holds_the_numbers_or_is_refused(xp_device, x, dtype):
    message = rf"integers from {x[0]} to {x[0]} do not fit {dtype} on .*; ask for a longer dtype"
    with pytest.raises(ValueError, match=message):
        xp_device.device.asarray(np.array(x), dtype)
    assert to_host(xp_device.device.asarray(np.array([7]), dtype)).tolist() == [7]


def test_a_tensor_of_bfloat16_reaches_the_host():
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, -0.5, 3.0], dtype=torch.bfloat16)
    np.testing.assert_array_equal(to_host(x), np.float32([1.0, -0.5, 3.0]), strict=True)
