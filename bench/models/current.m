-- How the current kernel (as of 6.18) takes an address space down while its OOM killer and
-- its reaper are at it, for rumur (Murphi). Written by hand after kernel/exit.c, kernel/fork.c,
-- mm/mmap.c, mm/memory.c, mm/mmu_gather.c, mm/oom_kill.c, mm/page_alloc.c.
--
-- Threads of the victim, and readers (third holders of mm_users), each end in mmput; the last
-- one out runs exit_mmap. Beside them: who allocates, and so kills; the timer of two seconds; the
-- reaper. One rule is a task, and one case of its switch a step: what it does happens at once.
-- All that holds of this design here is asserted; what does not is covered (a cover fails if it
-- is never hit).

const
  READERS: 1;
  THREADS: 1;

type
  thread_t: 0..THREADS - 1;
  reader_t: scalarset(READERS);
  -- Page 0: freed on the way, as batches fill up. Page 1: of the last batch, and freed at the end.
  page_t: 0..1;
  page_state_t: enum { MAPPED, GATHERED, FREE };
  tree_t: enum { LINKED, EMPTY };

  -- Where a thread or a reader is: at what it does next.
  exit_t: enum {
    GET_SIGNAL, CLEAR_CURRENT_MM,  -- threads
    GET_TASK_MM,  -- readers
    MMPUT_TESTZERO,
    MMAP_READ_LOCK, VMA_FIRST, ZAP_PAGE_0, TLB_FLUSH_MMU, ZAP_PAGE_1, VMA_LAST, MMAP_READ_UNLOCK,
    SET_MMF_OOM_SKIP,
    MMAP_WRITE_LOCK, FREE_PGTABLES, TLB_FINISH_MMU, REMOVE_VMAS, MMAP_WRITE_UNLOCK,
    MMDROP,
    RELEASE_TASK,  -- threads
    GONE
  };
  task_t: record
    at: exit_t;
    has_page_1: boolean;  -- in its mmu_gather
  end;

  allocator_t: enum {
    GET_PAGE_FROM_FREELIST, MUTEX_TRYLOCK, GET_PAGE_LOCKED,
    OOM_EVALUATE_TASK, SEND_SIGKILL_AND_MARK, QUEUE_OOM_REAPER, ADD_TIMER, KILL_NEXT,
    MUTEX_UNLOCK_AND_RETRY, MUTEX_UNLOCK_AND_END,
    SATISFIED
  };
  timer_t: enum { TIMER_EXPIRES, TIMER_TEST_SKIP, WAKE_OOM_REAPER, TIMER_OVER };
  reaper_t: enum {
    DEQUEUE,
    REAPER_READ_TRYLOCK, SCHEDULE_TIMEOUT_IDLE, REAPER_TEST_SKIP, SET_MMF_UNSTABLE,
    REAPER_VMA_FIRST, REAP_PAGE_1, REAPER_FINISH_PAGE_1, REAP_PAGE_0, REAPER_FINISH_PAGE_0,
    REAPER_VMA_LAST, REAPER_READ_UNLOCK, REAPER_SET_SKIP
  };

var
  -- struct mm_struct
  mm_users: 0..READERS + THREADS;
  mm_count: 0..2;
  mmf_oom_skip: boolean;
  mmf_unstable: boolean;
  mmf_oom_reap_queued: boolean;
  mmap_lock: -1..2;  -- so many readers, or -1 for a writer
  tree: tree_t;
  pgtables: boolean;
  walkers: 0..2;
  page: array [page_t] of page_state_t;
  -- struct signal_struct and task_struct of the victim
  sigkill: boolean;
  oom_mm: boolean;
  has_mm: array [thread_t] of boolean;
  live: 0..THREADS;  -- threads on the list of tasks
  -- the OOM killer's
  oom_lock: boolean;
  oom_reaper_timer: boolean;
  oom_reaper_list: boolean;  -- there is one victim, and it is queued once
  skip_shown: boolean;  -- the killer has seen MMF_OOM_SKIP, and acts on it
  killed_next: boolean;

  thread: array [thread_t] of task_t;
  reader: array [reader_t] of task_t;
  allocator: allocator_t;
  timer: timer_t;
  reaper: reaper_t;
  reaper_tries: 0..1;  -- that failed; MAX_OOM_REAP_RETRIES is 2 here

-- What is asked of the memory.

function all_free(): boolean;
begin
  return page[0] = FREE & page[1] = FREE;
end;

-- No I/O in flight and no stuck lock here: what is not back yet, comes.
function is_on_its_way(): boolean;
begin
  return !all_free();
end;

function a_thread_has_mm(): boolean;
begin
  for t: thread_t do
    if has_mm[t] then return true; end;
  end;
  return false;
end;

procedure touch_mm();
begin
  assert mm_count > 0 "refcount: the mm is used after its mm_count fell to 0";
end;

-- mm/memory.c, mm/mmu_gather.c

-- Take a page out of its page table; whether one was there.
procedure zap_pte_range(p: page_t; var was_mapped: boolean);
begin
  assert pgtables "pgtables-in-use: takes the lock of a page table that was freed";
  was_mapped := page[p] = MAPPED;
  if was_mapped then page[p] := GATHERED; end;
end;

procedure free_page(p: page_t);
begin
  assert page[p] != FREE "double-free: a page is freed a second time";
  page[p] := FREE;
  if skip_shown then
    cover true "freed-after-skip: a page is freed after the killer saw MMF_OOM_SKIP";
  end;
end;

-- include/linux/mmap_lock.h

procedure mmap_read_lock();
begin
  touch_mm();
  assert mmap_lock >= 0 "mmap_lock is taken for reading under a writer";
  mmap_lock := mmap_lock + 1;
end;

procedure mmap_read_unlock();
begin
  touch_mm();
  mmap_lock := mmap_lock - 1;
end;

-- One step of a thread or a reader, from mmput on.
procedure step_exit(var task: task_t);
var was_mapped: boolean;
begin
  switch task.at
  case MMPUT_TESTZERO:
    touch_mm();
    assert mm_users > 0 "refcount: mm_users falls below 0";
    mm_users := mm_users - 1;
    task.at := mm_users = 0 ? MMAP_READ_LOCK : RELEASE_TASK;

  -- exit_mmap
  case MMAP_READ_LOCK:
    mmap_read_lock();
    task.at := VMA_FIRST;
  case VMA_FIRST:
    touch_mm();
    if tree = EMPTY then
      task.at := MMAP_READ_UNLOCK;
    else
      walkers := walkers + 1;
      task.at := ZAP_PAGE_0;
    end;
  case ZAP_PAGE_0:
    zap_pte_range(0, was_mapped);
    task.at := was_mapped ? TLB_FLUSH_MMU : ZAP_PAGE_1;
  case TLB_FLUSH_MMU:
    free_page(0);
    task.at := ZAP_PAGE_1;
  case ZAP_PAGE_1:
    zap_pte_range(1, was_mapped);
    task.has_page_1 := was_mapped;
    task.at := VMA_LAST;
  case VMA_LAST:
    walkers := walkers - 1;
    task.at := MMAP_READ_UNLOCK;
  case MMAP_READ_UNLOCK:
    mmap_read_unlock();
    task.at := SET_MMF_OOM_SKIP;
  case SET_MMF_OOM_SKIP:
    touch_mm();
    mmf_oom_skip := true;
    task.at := MMAP_WRITE_LOCK;
  case MMAP_WRITE_LOCK:
    touch_mm();
    mmap_lock := -1;
    task.at := FREE_PGTABLES;
  case FREE_PGTABLES:
    assert walkers = 0 "pgtables-in-use: frees page tables that somebody walks";
    pgtables := false;
    task.at := TLB_FINISH_MMU;
  case TLB_FINISH_MMU:
    if task.has_page_1 then free_page(1); end;
    task.has_page_1 := false;
    task.at := REMOVE_VMAS;
  case REMOVE_VMAS:
    assert walkers = 0 "torn-tree: frees areas that somebody walks";
    tree := EMPTY;
    task.at := MMAP_WRITE_UNLOCK;
  case MMAP_WRITE_UNLOCK:
    touch_mm();
    mmap_lock := 0;
    task.at := MMDROP;

  case MMDROP:
    touch_mm();
    mm_count := mm_count - 1;
    task.at := RELEASE_TASK;
  end;
end;

-- Whether nothing keeps a thread or a reader from its next step.
function may_step_exit(at: exit_t): boolean;
begin
  switch at
  case GET_SIGNAL: return sigkill;
  case CLEAR_CURRENT_MM, MMAP_READ_LOCK: return mmap_lock >= 0;
  case MMAP_WRITE_LOCK: return mmap_lock = 0;
  case GONE: return false;
  else return true;
  end;
end;

startstate "before the kill"
begin
  mm_users := THREADS;
  mm_count := 1;
  mmf_oom_skip := false;
  mmf_unstable := false;
  mmf_oom_reap_queued := false;
  mmap_lock := 0;
  tree := LINKED;
  pgtables := true;
  walkers := 0;
  for p: page_t do page[p] := MAPPED; end;
  sigkill := false;
  oom_mm := false;
  oom_lock := false;
  oom_reaper_timer := false;
  oom_reaper_list := false;
  skip_shown := false;
  killed_next := false;
  live := THREADS;
  for t: thread_t do
    has_mm[t] := true;
    thread[t].at := GET_SIGNAL;
    thread[t].has_page_1 := false;
  end;
  for r: reader_t do
    reader[r].at := GET_TASK_MM;
    reader[r].has_page_1 := false;
  end;
  allocator := GET_PAGE_FROM_FREELIST;
  timer := TIMER_EXPIRES;
  reaper := DEQUEUE;
  reaper_tries := 0;
end;

-- do_exit
ruleset t: thread_t do
  rule "thread" may_step_exit(thread[t].at) ==>
  begin
    switch thread[t].at
    case GET_SIGNAL:
      thread[t].at := CLEAR_CURRENT_MM;
    case CLEAR_CURRENT_MM:
      has_mm[t] := false;
      thread[t].at := MMPUT_TESTZERO;
    case RELEASE_TASK:
      live := live - 1;
      thread[t].at := GONE;
    else
      step_exit(thread[t]);
    end;
  end;
end;

-- get_task_mm, and mmput
ruleset r: reader_t do
  rule "reader" may_step_exit(reader[r].at) ==>
  begin
    switch reader[r].at
    case GET_TASK_MM:
      if a_thread_has_mm() then
        mm_users := mm_users + 1;
        reader[r].at := MMPUT_TESTZERO;
      else
        reader[r].at := GONE;
      end;
    else
      step_exit(reader[r]);
    end;
    if reader[r].at = RELEASE_TASK then reader[r].at := GONE; end;  -- it lives on
  end;
end;

-- __alloc_pages_slowpath and out_of_memory: until there is enough, or a second victim was killed
rule "allocator" allocator != SATISFIED ==>
begin
  switch allocator
  case GET_PAGE_FROM_FREELIST:
    allocator := all_free() ? SATISFIED : MUTEX_TRYLOCK;
  case MUTEX_TRYLOCK:
    if oom_lock then
      allocator := GET_PAGE_FROM_FREELIST;
    else
      oom_lock := true;
      allocator := GET_PAGE_LOCKED;
    end;
  case GET_PAGE_LOCKED:
    allocator := all_free() ? MUTEX_UNLOCK_AND_END : OOM_EVALUATE_TASK;

  case OOM_EVALUATE_TASK:
    if live = 0 then
      allocator := KILL_NEXT;
    elsif oom_mm & !mmf_oom_skip then
      allocator := MUTEX_UNLOCK_AND_RETRY;
    elsif oom_mm then
      skip_shown := true;
      allocator := KILL_NEXT;
    else
      allocator := has_mm[0] ? SEND_SIGKILL_AND_MARK : KILL_NEXT;
    end;

  case SEND_SIGKILL_AND_MARK:
    if a_thread_has_mm() then
      sigkill := true;
      if !oom_mm then mm_count := mm_count + 1; end;
      oom_mm := true;
      allocator := QUEUE_OOM_REAPER;
    else
      allocator := MUTEX_UNLOCK_AND_RETRY;
    end;
  case QUEUE_OOM_REAPER:
    touch_mm();
    allocator := mmf_oom_reap_queued ? MUTEX_UNLOCK_AND_RETRY : ADD_TIMER;
    mmf_oom_reap_queued := true;
  case ADD_TIMER:
    oom_reaper_timer := true;
    allocator := MUTEX_UNLOCK_AND_RETRY;

  case KILL_NEXT:
    killed_next := true;
    if all_free() then
      cover true "kill-after-relief: a second victim dies, and all memory of the first is back";
    end;
    if is_on_its_way() then
      cover true "needless-kill: a second victim dies while memory of the first is on its way";
      if page[0] != FREE & page[1] != FREE then
        cover true "needless-kill-at-once: a second victim dies before a page of the first is back";
      end;
    end;
    allocator := MUTEX_UNLOCK_AND_END;

  case MUTEX_UNLOCK_AND_RETRY:
    oom_lock := false;
    allocator := GET_PAGE_FROM_FREELIST;
  case MUTEX_UNLOCK_AND_END:
    oom_lock := false;
    allocator := SATISFIED;
  end;
end;

-- wake_oom_reaper: two seconds after the kill, that is: at any later time
rule "timer" timer = TIMER_EXPIRES ? oom_reaper_timer : timer != TIMER_OVER ==>
begin
  switch timer
  case TIMER_EXPIRES:
    oom_reaper_timer := false;
    timer := TIMER_TEST_SKIP;
  case TIMER_TEST_SKIP:
    touch_mm();
    timer := mmf_oom_skip ? TIMER_OVER : WAKE_OOM_REAPER;
  case WAKE_OOM_REAPER:
    assert !oom_reaper_list "queued-once: a task that is on the list is put on it again";
    oom_reaper_list := true;
    timer := TIMER_OVER;
  end;
end;

function may_step_reaper(): boolean;
begin
  switch reaper
  case DEQUEUE: return oom_reaper_list;
  -- All attempts together last long enough for whatever comes by itself.
  case SCHEDULE_TIMEOUT_IDLE: return !is_on_its_way();
  else return true;
  end;
end;

-- oom_reap_task: a few tries, a tenth of a second apart
rule "oom_reaper" may_step_reaper() ==>
var was_mapped: boolean;
begin
  switch reaper
  case DEQUEUE:
    oom_reaper_list := false;
    reaper := REAPER_READ_TRYLOCK;

  case REAPER_READ_TRYLOCK:
    touch_mm();
    if mmap_lock < 0 then
      reaper := SCHEDULE_TIMEOUT_IDLE;
    else
      mmap_lock := mmap_lock + 1;
      reaper_tries := 0;
      reaper := REAPER_TEST_SKIP;
    end;
  case SCHEDULE_TIMEOUT_IDLE:
    if reaper_tries = 0 then
      reaper_tries := 1;
      reaper := REAPER_READ_TRYLOCK;
    else
      reaper_tries := 0;
      reaper := REAPER_SET_SKIP;
    end;
  case REAPER_TEST_SKIP:
    touch_mm();
    reaper := mmf_oom_skip ? REAPER_READ_UNLOCK : SET_MMF_UNSTABLE;

  -- __oom_reap_task_mm: areas from the last to the first (6.18), each with its own gather
  case SET_MMF_UNSTABLE:
    touch_mm();
    mmf_unstable := true;
    reaper := REAPER_VMA_FIRST;
  case REAPER_VMA_FIRST:
    touch_mm();
    if tree = EMPTY then
      reaper := REAPER_READ_UNLOCK;
    else
      walkers := walkers + 1;
      reaper := REAP_PAGE_1;
    end;
  case REAP_PAGE_1:
    zap_pte_range(1, was_mapped);
    reaper := was_mapped ? REAPER_FINISH_PAGE_1 : REAP_PAGE_0;
  case REAPER_FINISH_PAGE_1:
    free_page(1);
    reaper := REAP_PAGE_0;
  case REAP_PAGE_0:
    zap_pte_range(0, was_mapped);
    reaper := was_mapped ? REAPER_FINISH_PAGE_0 : REAPER_VMA_LAST;
  case REAPER_FINISH_PAGE_0:
    free_page(0);
    reaper := REAPER_VMA_LAST;
  case REAPER_VMA_LAST:
    walkers := walkers - 1;
    reaper := REAPER_READ_UNLOCK;

  case REAPER_READ_UNLOCK:
    mmap_read_unlock();
    reaper := REAPER_SET_SKIP;
  case REAPER_SET_SKIP:
    touch_mm();
    mmf_oom_skip := true;
    reaper := DEQUEUE;
  end;
end;

-- Once all threads and readers are gone, only the victim's signal_struct keeps the struct.
invariant "refcount"
  (forall t: thread_t do thread[t].at = GONE end & forall r: reader_t do reader[r].at = GONE end)
    -> (mm_users = 0 & mm_count = (oom_mm ? 1 : 0));
