"""Whole machines that run out of memory: memreap, its peers and the bare kernel, side by side.

``python -m bench.oom`` boots guests of Debian sid, one for each daemon, setting and workload::

    runs.py       the host: boots, keeps every run in a file, goes on where it was interrupted
      round.py      in the guest: one run after another, and what each was seen to do
        daemons.py    who is compared, with which settings
        workloads.py  what makes memory run out, and whose fault it is
        yard.py       where workloads and bystanders live
        meter.py      the clock, the line, the heartbeat
        signals.py    who was killed, and by whom
    verdict.py    the host: what a run's record means
    page.py       tables for docs/peers.md
    plots.py      drawings beside it

What runs in the guest needs the standard library and ``vmtest.inside`` alone.
"""
