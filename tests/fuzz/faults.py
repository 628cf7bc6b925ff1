"""A subject that has every fault that the pool has to find; it loads next to nothing."""

import os
import signal
from pathlib import Path

from tests.fuzz.pool import Judge


def judge_of_faults(folder: Path) -> Judge:
    def judge(seed: int) -> tuple[str, str]:
        match seed:
            case 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 2:
                while True:
                    pass
            case 3:
                raise KeyError("a key")
            case 4:
                bytearray(1 << 40)
            case 5:
                return ("no name", "a message")
        return ("of use", "")

    return judge
