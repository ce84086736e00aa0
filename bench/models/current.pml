/*
 * How the current kernel (as of 6.18) takes an address space down while its OOM killer and
 * its reaper are at it, for SPIN (Promela). Written by hand after kernel/exit.c, kernel/fork.c,
 * mm/mmap.c, mm/memory.c, mm/mmu_gather.c, mm/oom_kill.c, mm/page_alloc.c.
 *
 * Threads of the victim, and readers (third holders of mm_users), each end in mmput; the last
 * one out runs exit_mmap. Beside them: who allocates, and so kills; the timer of two seconds; the
 * reaper. A d_step is one step; what a step finds out chooses among the d_steps of an "if".
 * All that holds of this design here is asserted. Where nothing can happen any more, and a process
 * is at no "end" label, SPIN reports it: a deadlock.
 *
 * No process ends: it stays in "end_gone" for ever. SPIN lets processes die one after another, the
 * youngest first, each death a step: so many more states, of which the kernel knows nothing.
 *
 * spin -o2 -DREADERS=2 -DTHREADS=1 -a current.pml
 *
 * Without -o2 SPIN leaves out of a state what is written and never read (mmf_unstable), and so has
 * fewer. It counts the first state among the transitions.
 */

#ifndef READERS
#define READERS 1
#endif
#ifndef THREADS
#define THREADS 1
#endif

/* struct mm_struct */
byte mm_users = THREADS;
byte mm_count = 1;
bool mmf_oom_skip, mmf_unstable, mmf_oom_reap_queued;
short mmap_lock;  /* so many readers, or -1 for a writer */
bool tree_is_empty;
bool pgtables = true;
byte walkers;

#define MAPPED 0
#define GATHERED 1
#define FREE 2
/* Page 0: freed on the way, as batches fill up. Page 1: of the last batch, freed at the end. */
byte page[2];

/* struct signal_struct and task_struct of the victim */
bool sigkill, oom_mm;
bool has_mm[THREADS] = true;
byte live = THREADS;  /* threads on the list of tasks */

/* the OOM killer's */
bool oom_lock, oom_reaper_timer;
bool oom_reaper_list;  /* there is one victim, and it is queued once */
bool skip_shown;  /* the killer has seen MMF_OOM_SKIP, and acts on it */
bool killed_next;

#define ALL_FREE (page[0] == FREE && page[1] == FREE)
/* No I/O in flight and no stuck lock here: what is not back yet, comes. */
#define IS_ON_ITS_WAY (!ALL_FREE)

#if THREADS == 1
#define A_THREAD_HAS_MM (has_mm[0])
#elif THREADS == 2
#define A_THREAD_HAS_MM (has_mm[0] || has_mm[1])
#elif THREADS == 3
#define A_THREAD_HAS_MM (has_mm[0] || has_mm[1] || has_mm[2])
#endif

/* What a step is made of. */

inline touch_mm() { assert(mm_count > 0) }  /* refcount */

inline free_page(p)
{
	assert(page[p] != FREE);  /* double-free */
	page[p] = FREE
}

/* Steps. */

inline mmap_read_unlock() { d_step { touch_mm(); mmap_lock-- } }

inline set_mmf_oom_skip() { d_step { touch_mm(); mmf_oom_skip = true } }

inline vma_first_finds() { d_step { !tree_is_empty -> touch_mm(); walkers++ } }
inline vma_first_finds_none() { d_step { tree_is_empty -> touch_mm() } }
inline vma_last() { d_step { walkers-- } }

inline zap_pte_range(p)
{
	d_step { page[p] == MAPPED -> assert(pgtables); page[p] = GATHERED }
}
inline zap_pte_range_finds_none(p)
{
	d_step { page[p] != MAPPED -> assert(pgtables) }
}

inline tlb_flush_mmu(p) { d_step { free_page(p) } }

/* Use the address space no more; the last one out takes it down. */
inline mmput(has_page_1)
{
	if
	:: d_step { mm_users == 1 -> touch_mm(); mm_users = 0 };
	   exit_mmap(has_page_1);
	   d_step { touch_mm(); mm_count-- }  /* mmdrop */
	:: d_step { mm_users != 1 -> touch_mm(); assert(mm_users > 0); mm_users-- }
	fi
}

/* "has_page_1": in the caller's mmu_gather. */
inline exit_mmap(has_page_1)
{
	d_step { mmap_lock >= 0 -> touch_mm(); mmap_lock++ };  /* mmap_read_lock */
	if
	:: vma_first_finds();
	   if
	   :: zap_pte_range(0); tlb_flush_mmu(0)
	   :: zap_pte_range_finds_none(0)
	   fi;
	   if
	   :: d_step { page[1] == MAPPED -> assert(pgtables); page[1] = GATHERED; has_page_1 = true }
	   :: zap_pte_range_finds_none(1)
	   fi;
	   vma_last()
	:: vma_first_finds_none()
	fi;
	mmap_read_unlock();
	set_mmf_oom_skip();
	d_step { mmap_lock == 0 -> touch_mm(); mmap_lock = -1 };  /* mmap_write_lock */
	d_step { assert(walkers == 0); pgtables = false };  /* free_pgtables */
	d_step {  /* tlb_finish_mmu */
		if
		:: has_page_1 -> free_page(1); has_page_1 = false
		:: else
		fi
	};
	d_step { assert(walkers == 0); tree_is_empty = true };  /* remove_vma */
	d_step { touch_mm(); mmap_lock = 0 }  /* mmap_write_unlock */
}

/* The tasks. Threads come first: a thread's number is its _pid. */

active [THREADS] proctype thread()
{
	bool has_page_1;

	d_step { sigkill -> skip };  /* get_signal */
	d_step { mmap_lock >= 0 -> has_mm[_pid] = false };  /* exit_mm */
	mmput(has_page_1);
	d_step { live-- };  /* release_task */
end_gone:
	false
}

#if READERS
active [READERS] proctype reader()
{
	bool has_page_1;

	if  /* get_task_mm */
	:: d_step { A_THREAD_HAS_MM -> mm_users++ };
	   mmput(has_page_1)
	:: d_step { !A_THREAD_HAS_MM -> skip }
	fi;
end_gone:
	false
}
#endif

/* __alloc_pages_slowpath: until there is enough, or a second victim was killed. */
active proctype allocator()
{
get_page_from_freelist:
	if
	:: d_step { ALL_FREE -> skip }; goto end_gone
	:: d_step { !ALL_FREE -> skip }
	fi;
	if  /* mutex_trylock */
	:: d_step { !oom_lock -> oom_lock = true }
	:: d_step { oom_lock -> skip }; goto get_page_from_freelist
	fi;
	if  /* __alloc_pages_may_oom: once more, with the lock held */
	:: d_step { ALL_FREE -> skip }; goto unlock_and_end
	:: d_step { !ALL_FREE -> skip }
	fi;
	if  /* oom_evaluate_task */
	:: d_step { live == 0 -> skip }; goto kill_next
	:: d_step { live && oom_mm && !mmf_oom_skip -> skip }; goto unlock_and_retry
	:: d_step { live && oom_mm && mmf_oom_skip -> skip_shown = true }; goto kill_next
	:: d_step { live && !oom_mm && !has_mm[0] -> skip }; goto kill_next
	:: d_step { live && !oom_mm && has_mm[0] -> skip }
	fi;
	if  /* __oom_kill_process: send SIGKILL, mark_oom_victim */
	:: d_step {
		A_THREAD_HAS_MM ->
		sigkill = true;
		if
		:: !oom_mm -> mm_count++; oom_mm = true
		:: else
		fi
	   }
	:: d_step { !A_THREAD_HAS_MM -> skip }; goto unlock_and_retry
	fi;
	if  /* queue_oom_reaper */
	:: d_step { !mmf_oom_reap_queued -> touch_mm(); mmf_oom_reap_queued = true };
	   d_step { oom_reaper_timer = true }
	:: d_step { mmf_oom_reap_queued -> touch_mm() }
	fi;
unlock_and_retry:
	oom_lock = false;
	goto get_page_from_freelist;
kill_next:
	killed_next = true;
unlock_and_end:
	oom_lock = false;
end_gone:
	false
}

/* wake_oom_reaper: two seconds after the kill, that is: at any later time. */
active proctype timer()
{
end_idle:
	d_step { oom_reaper_timer -> oom_reaper_timer = false };
	if
	:: d_step { !mmf_oom_skip -> touch_mm() };
	   d_step { assert(!oom_reaper_list); oom_reaper_list = true }  /* queued-once */
	:: d_step { mmf_oom_skip -> touch_mm() }
	fi;
end_gone:
	false
}

/* oom_reap_task: a few tries, a tenth of a second apart; MAX_OOM_REAP_RETRIES is 2 here. */
active proctype oom_reaper()
{
	bool failed_once;

end_idle:
	do
	:: d_step { oom_reaper_list -> oom_reaper_list = false };
again:
	   if  /* mmap_read_trylock */
	   :: d_step { mmap_lock < 0 -> touch_mm() };
	      if  /* schedule_timeout_idle: long enough for whatever comes by itself */
	      :: d_step { !IS_ON_ITS_WAY && !failed_once -> failed_once = true }; goto again
	      :: d_step { !IS_ON_ITS_WAY && failed_once -> failed_once = false }
	      fi
	   :: d_step { mmap_lock >= 0 -> touch_mm(); mmap_lock++; failed_once = false };
	      if
	      :: d_step { !mmf_oom_skip -> touch_mm() };
	         /* __oom_reap_task_mm: from the last area to the first, each with its own gather */
	         d_step { touch_mm(); mmf_unstable = true };
	         if
	         :: vma_first_finds();
	            if
	            :: zap_pte_range(1); tlb_flush_mmu(1)
	            :: zap_pte_range_finds_none(1)
	            fi;
	            if
	            :: zap_pte_range(0); tlb_flush_mmu(0)
	            :: zap_pte_range_finds_none(0)
	            fi;
	            vma_last()
	         :: vma_first_finds_none()
	         fi
	      :: d_step { mmf_oom_skip -> touch_mm() }
	      fi;
	      mmap_read_unlock()
	   fi;
	   set_mmf_oom_skip()
	od
}
