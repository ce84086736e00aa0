"""The kernel's protocol between whoever frees a dying process's memory, as tasks for ``check``.

Named and ordered as in the kernel: ``oom_kill``, ``mmap``, ``memory``, ``fork``, ``exit`` and the
others hold what the files of these names do. ``kernel`` ties them to one machine; ``designs``
holds what was merged or proposed instead, each as a difference; ``scenarios`` who takes part,
``properties`` what is asked, ``bugs`` and ``argument`` what is known of the answers.
"""
