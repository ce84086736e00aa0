"""Which tracepoints are read for what. Tables only.

Each with its filter, in the kernel's own words. What a kernel does not have is left out and said;
without those in NEEDED nothing can be told at all.
"""

SIGKILLS = (("signal/signal_generate", "sig == 9"), ("signal/signal_deliver", "sig == 9"))
MRELEASE = (
    ("syscalls/sys_enter_process_mrelease", ""),
    ("syscalls/sys_exit_process_mrelease", ""),
)
MMAP_LOCK = (
    ("mmap_lock/mmap_lock_start_locking", ""),
    ("mmap_lock/mmap_lock_acquire_returned", ""),
    ("mmap_lock/mmap_lock_released", ""),
)
TEARDOWN = (("mmap/exit_mmap", ""), ("kmem/rss_stat", ""))
# prev_state of sched_switch, as task_state_index tells it: EXIT_DEAD, EXIT_ZOMBIE. linux/sched.h
DEAD_STATES = (16, 32)
DEAD = " || ".join(f"prev_state == {state}" for state in DEAD_STATES)
# Switched away from for good, or to wait for what cannot be interrupted.
SWITCHES = (("sched/sched_switch", f"{DEAD} || prev_state == 2"),)
ENDS = (("sched/sched_process_exit", ""), ("sched/sched_process_free", ""))
OOM = (
    ("oom/mark_victim", ""),
    ("oom/wake_reaper", ""),
    ("oom/start_task_reaping", ""),
    ("oom/finish_task_reaping", ""),
    ("oom/skip_task_reaping", ""),
)

KILL = (*SIGKILLS, *MRELEASE, *MMAP_LOCK, *TEARDOWN, *ENDS, *SWITCHES, *OOM)
# Of everybody, while a guard is about to kill: only what exits and reaps do (curr: to its own mm).
# Without mmap_lock: everybody takes it all the time, and on a busy machine nothing else would fit.
# The first ones first: a kill may come while they are taken up.
INCIDENT = (
    *SIGKILLS[:1],
    ("kmem/rss_stat", "curr == 0"),
    ("mmap/exit_mmap", ""),
    *MRELEASE,
    ("sched/sched_process_exit", ""),
    ("sched/sched_switch", DEAD),
)
NEEDED = {
    "kill": ("signal/signal_generate", "sched/sched_process_exit"),
    "oom": ("oom/mark_victim",),
}

# member of rss_stat: enum in linux/mm_types_task.h
MEMBERS = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SWAPENTS", "MM_SHMEMPAGES")
