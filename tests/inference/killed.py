"""`killed.py ROOT MODEL DAY`: refresh in children that are killed before their 1st, 2nd, ... write, until one ends.

Prints how many were killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from daily_world import World, refresh

from qanchor.events import atomic
from qanchor.events.profile_store import ProfileShard
from qanchor.inference.engine import QAnchor


def killed_before(number: int, world: World, day: int) -> None:
    """Refresh, but for the write of this number (files, rows, the state, the commit)."""
    left = number

    def counted(plain):
        def write(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments)

        return write

    atomic.switch = counted(atomic.switch)
    for name in ("put", "stand_at", "close"):
        setattr(ProfileShard, name, counted(getattr(ProfileShard, name)))
    refresh(world.job(day))


if __name__ == "__main__":
    torch.set_num_threads(1)
    world, day = World(Path(sys.argv[1]), Path(sys.argv[2])), int(sys.argv[3])
    QAnchor.from_pretrained(world.model)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            killed_before(kills, world, day)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            break
        kills += 1
    print(kills)
    sys.exit(os.WEXITSTATUS(status))
