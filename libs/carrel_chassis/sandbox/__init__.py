"""Processes for code that nobody here wrote: forked in milliseconds, bounded, shut in, and ended from outside.

Three levels, each of which includes the one before. What a level refuses is what `tests/libs/chassis/test_sandbox_escapes.py` tries.

| Level | Made of | Refuses |
|---|---|---|
| PROCESS | a process with rlimits, an empty environment, a folder of its own, no open file but its own | the parent's environment and memory, more memory, CPU, disk or processes than granted |
| KERNEL | + Landlock and seccomp | every file but the granted ones, all sockets, signals to others, new programs, /proc |
| NAMESPACES | + bubblewrap | the sight of other processes, of files' names, of the network's devices |

`level` says what the machine can do, `pool` runs calls, `zygote` is the program they are forked from, `confine` shuts one in.
"""
