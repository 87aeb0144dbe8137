"""`python -m v3audio`, and the entry point of the `v3audio` program."""

import os
import signal
from types import FrameType


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"v3audio: stopped\n")
    os._exit(0)


def main() -> None:
    """Run a command; a signal while the commands are still being loaded ends it in order too."""
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = {
        number: signal.signal(number, _leave)
        for number in numbers
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    from v3audio.cli import main as run

    for number, handler in before.items():
        signal.signal(number, handler)
    run()


if __name__ == "__main__":
    main()
