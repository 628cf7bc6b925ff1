"""Everything that wants a CUDA GPU, in one command.

    python bench/gpu/gpu.py --out FOLDER --first         # the first minutes on a GPU
    python bench/gpu/gpu.py --out FOLDER --mnist mnist.npz
    python bench/gpu/gpu.py --out FOLDER --phases peers --precisions tf32 bf16
    python bench/gpu/gpu.py --out FOLDER --rehearse      # every phase on the CPU, networks tiny

Each phase is a process of its own with a time limit; one that fails or is late is recorded as
such, and the next begins. FOLDER/gpu.json and FOLDER/gpu.md are written after every result, so a
run that is cut off leaves what it has; FOLDER/gpu.log has what the phases said. Without a GPU it
says what is missing, and compiles the CUDA sources where there is nvcc. There, and in a rehearsal,
no GPU has to be given back, so nothing has a time limit. Ends with status 1 if a phase has a
problem.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Runs from the checkout, since installing it takes time on a machine rented for minutes.
    sys.path[0] = str(Path(__file__).parents[2])
    from bench.gpu.schedule import main
    from bench.shared.script import run

    run(lambda: main(__doc__))
