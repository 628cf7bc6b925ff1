"""Every kernel, compiled as CuPy does it on a GPU, by NVRTC of two versions of CUDA.

nvcc and NVRTC of other versions allot registers otherwise, so each of them is asked. A kernel with
anything in local memory is many times slower.
"""

from hashlib import sha256

import pytest

from nnaccel.kernels.cuda.signatures import FUNCTORS, expressions
from nnaccel.kernels.cuda.source import kernel_source
from tests.kernels.cuda import nvrtc

# Of a kernel for each activation or type of examples, the older compiler is asked for one: all of
# them take it as long as the tests of a folder.
SPARED = ("double", *(g for g in FUNCTORS.values() if g not in ("Relu", "Gelu")), "char", "short")
VERSIONS = {(13, 0): (), (12, 9): SPARED}


@pytest.mark.parametrize("version", VERSIONS, ids="{0[0]}.{0[1]}".format)
def test_no_kernel_has_local_memory(version, request):
    if nvrtc.library(version) is None:
        pytest.skip("needs NVRTC 13.0 and 12.9, of the extra `nvrtc`, to compile as CuPy does")
    kernels = [
        name
        for name in expressions()
        if "small_epoch" in name or not any(word in name for word in VERSIONS[version])
    ]
    # Once for each source, since it takes up to half a minute.
    words = repr((kernel_source(), kernels, version, nvrtc.OPTIONS))
    key, digest = "nnaccel/nvrtc-{}.{}".format(*version), sha256(words.encode()).hexdigest()
    kept = getattr(request.config, "cache", None)  # None with -p no:cacheprovider
    if kept is not None and kept.get(key, "") == digest:
        return
    found = nvrtc.compiled(kernel_source(), kernels, version)
    wrong = {name: r for name, r in found.items() if r.stack or r.spill_stores or r.spill_loads}
    assert wrong == {}
    if kept is not None:
        kept.set(key, digest)


def test_local_memory_is_found():
    """The test of the test: an array that is indexed by a number that is not known."""
    version = next((v for v in VERSIONS if nvrtc.library(v)), None)
    if version is None:
        pytest.skip("needs NVRTC 13.0 and 12.9, of the extra `nvrtc`, to compile as CuPy does")
    source = """
        __global__ void local(float* x, int n) {
            float some[64];
            for (int i = 0; i < 64; ++i) some[i] = x[i * n];
            for (int i = 0; i < n; ++i) x[i] = some[int(x[i]) % 64];
        }
        template <class T> __global__ void none(T* x) { *x *= 2; }
    """
    found = nvrtc.compiled(source, ["local", "none<float>"], version)
    local, none = (
        next(r for name, r in found.items() if part in name) for part in ("local", "none")
    )
    assert local.stack == 256
    assert none.stack == none.spill_stores == none.spill_loads == 0
    assert 0 < none.registers <= 32
    with pytest.raises(AssertionError, match=r"NVRTC_ERROR_COMPILATION\n.*error: expected"):
        nvrtc.compiled("__global__ void broken() { int x = ; }", ["broken"], version)
