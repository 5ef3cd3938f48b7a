"""Processes for code that nobody here wrote: forked in milliseconds, bounded, shut in, and ended from outside.

Three levels, each of which includes the one before. What a level refuses is what `tests/libs/chassis/test_sandbox_escapes.py` tries.

PROCESS     rlimits, an empty environment, a folder and descriptors of its own: refuses more memory, CPU, disk or processes than granted,
            and has none of the parent's secrets
KERNEL      + Landlock and seccomp: refuses all files but the granted ones, all sockets, signals to others, new programs
NAMESPACES  + bubblewrap: takes the sight of other processes, of the names of files, of the network's devices

`level` says what the machine can do, `pool` runs calls, `zygote` is the program they are forked from, `confine` shuts one in.
"""
