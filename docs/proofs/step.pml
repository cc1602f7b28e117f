// SPDX-License-Identifier: Apache-2.0
//
// How ranks agree on a step: report, plan, reserve, run, hand back, settle, reduce, apply. README.md says what of it is
// proved, and what is left out.
//
// Every rank is a process (at the end of this file). Memory is whatever it likes to be: each time a rank
// asks (does a sample fit? may I have this block?) either answer is possible, so every history of neighbours and
// failing allocations is among the executions. So is every history of plans: where the coordinator weighs times, here
// any choice is made that its contract allows. And the job has any number of steps.
//
// Each switch BREAK_... (spin -D) breaks the protocol in one way; a test shows that every one is found.

#define RANKS   3
#ifndef SAMPLES
#define SAMPLES 4 // of the global batch; sets of them are bit sets
#endif
#define MOST    2 // samples of the largest micro-step
#define BUCKETS 2 // of gradients; the first may be all-reduced while the last micro-step still runs

#define EVERYBODY      ((1 << RANKS) - 1)
#define WHOLE_BATCH    ((1 << SAMPLES) - 1)
#define NOTHING        0
#define BIT(rank)      (1 << (rank))
#define FIRST(samples) ((samples) & -(samples))
#define REST(samples)  ((samples) & ((samples) - 1))

// ---- What all ranks know ----

// What a rank tells: of struct step_message and struct sched_report, what decides.
typedef message {
    bool fits;    // it can hold a sample: micro_batch_max > 0 of some offer
    bool refused; // it could not reserve what its share of the plan needs
    byte left     // samples of its share that it hands back
}
message sent[RANKS];

// What the ranks' coordinators make of the messages. They are pure functions of the same messages (a hash in the next
// ones proves that they agree), so here there is one. It decides when the last message is there; nobody sees it sooner.
mtype = { REPORT, TRIM, RESERVE, RUN, SETTLE, JOB_DONE, STEP_LOST, NO_PLAN };
mtype verdict = REPORT;
byte deal[RANKS];     // samples that each rank shall do
byte handed_back = 0; // ranks that left samples in this step
bool trimmed = false; // all have, since ranks last agreed on a plan

// Collectives: which ranks are inside, until all are. Nobody is done with one before all have entered it.
mtype = { REPORTS, MESSAGES };
mtype gather_kind = REPORTS;
byte gathering = 0, gather_round = 0; // the round tells one collective from the next
byte reducing[BUCKETS], reduce_round[BUCKETS];
byte sum[BUCKETS], total[BUCKETS]; // samples whose gradients are in it: while ranks enter; when all have

bool dead = false, aborted = false; // a rank; the job, by the launcher

// ---- The coordinator: src/sched/coordinator.c ----

byte able = 0, rest = NOTHING, next = 0; // of these functions; 0 outside of them

#define ALL_LEFT    (sent[0].left | sent[1].left | sent[2].left)
#define ANY_REFUSED (sent[0].refused || sent[1].refused || sent[2].refused)

// sched_plan (src/sched/plan.c): a cut of `samples` among the ranks in `able`, contiguous and in rank order; any cut.
inline cut(samples)
{
    rest = samples;
    do
    :: rest != NOTHING && (able & BIT(next)) -> deal[next] = deal[next] | FIRST(rest); rest = REST(rest)
    :: rest != NOTHING && (able >> (next + 1)) -> next++
    :: rest == NOTHING -> break
    od;
    next = 0
}

// sched_coordinator_plan, and negotiate_plan (src/worker/negotiate.c) around it. TRIMs are counted until ranks agree,
// not anew after each refusal.
inline plan()
{
    handed_back = 0;
    able = sent[0].fits | sent[1].fits << 1 | sent[2].fits << 2;
    if
    :: able != 0 ->
#ifdef BREAK_PLAN_FOR_THE_FULL
        able = EVERYBODY;
#endif
        cut(WHOLE_BATCH);
        if
        :: verdict = RESERVE
        :: verdict = RUN; trimmed = false // it is the plan that ranks ran last
        fi
    :: able == 0 && !trimmed -> verdict = TRIM;
#ifndef BREAK_TRIMS_UNCOUNTED
        trimmed = true
#endif
    :: able == 0 && trimmed -> verdict = NO_PLAN
    fi;
    able = 0
}

// sched_coordinator_settle. In ascending order, the samples left are what the ranks left, rank after rank.
inline settle()
{
    handed_back = handed_back | (sent[0].left != 0) | (sent[1].left != 0) << 1 | (sent[2].left != 0) << 2;
    able = sent[0].fits | sent[1].fits << 1 | sent[2].fits << 2;
#ifndef BREAK_SETTLE_WITH_THE_FULL
    able = able & ~handed_back;
#endif
    if
    :: able != 0 -> cut(ALL_LEFT); verdict = SETTLE
    :: able == 0 -> verdict = STEP_LOST
#ifdef BREAK_GIVE_UP_EARLY
    :: true -> verdict = STEP_LOST
#endif
    fi;
    able = 0
}

inline decide_on_reports()
{
    if
    :: verdict == RESERVE && !ANY_REFUSED -> verdict = RUN; trimmed = false
    :: else ->
        deal[0] = NOTHING;
        deal[1] = NOTHING;
        deal[2] = NOTHING;
        plan()
    fi
}

inline decide_on_messages()
{
    if
    :: ALL_LEFT != NOTHING -> settle()
    :: ALL_LEFT == NOTHING -> plan()
    :: ALL_LEFT == NOTHING -> verdict = JOB_DONE // it was the last step
    fi
}

// ---- Collectives: src/worker/comm.h and reduce.h ----

// A rank waits until `condition` holds. It may have died before; later in its wait makes no difference to the others.
inline wait(condition)
{
    if
    :: true
#ifndef NOBODY_DIES
    :: !dead -> dead = true; goto leave
#endif
    fi;
    if
    :: condition
    :: aborted -> goto leave
    fi
}

// The all-gather of messages: begins here, is waited for later. All enter the same one.
inline gather_start(kind)
{
    wait(true);
    assert(gathering == 0 || gather_kind == kind && gather_round == round);
    d_step {
        gather_kind = kind;
        gather_round = round;
        sent[_pid].fits = fits;
        sent[_pid].refused = refused;
        sent[_pid].left = mine;
        refused = false;
        mine = NOTHING;
        gathering = gathering | BIT(_pid)
    }
}

inline gather_end()
{
    d_step {
        gathering = 0;
        gather_round = 0;
        sent[0].fits = false; sent[0].refused = false; sent[0].left = NOTHING;
        sent[1].fits = false; sent[1].refused = false; sent[1].left = NOTHING;
        sent[2].fits = false; sent[2].refused = false; sent[2].left = NOTHING
    }
}

inline gather_wait()
{
    wait(!(gathering & BIT(_pid)))
}

// start_bucket: enters the all-reduce of some of the gradients. It adds up the ranks; no sample may be in two of them.
inline reduce_start(bucket)
{
    assert(reducing[bucket] == 0 || reduce_round[bucket] == round);
    assert((sum[bucket] & gradient) == NOTHING);
    d_step {
        reduce_round[bucket] = round;
        sum[bucket] = sum[bucket] | gradient;
        reducing[bucket] = reducing[bucket] | BIT(_pid);
        if
        :: reducing[bucket] == EVERYBODY ->
            total[bucket] = sum[bucket];
            sum[bucket] = NOTHING;
            reducing[bucket] = 0;
            reduce_round[bucket] = 0
        :: else
        fi
    }
}

// samples_reduce: what run_last did not start, and until all of it is done.
inline reduce()
{
    wait(true);
#ifndef BREAK_FIRST_BUCKET_FORGOTTEN
    if
    :: !early -> reduce_start(0)
    :: early
    fi;
#endif
    reduce_start(1);
    d_step { gradient = NOTHING; early = false }
    wait(!((reducing[0] | reducing[1]) & BIT(_pid)));
    assert(total[0] == total[1]);
    gradient = total[0]
}

// ---- A rank: src/worker/step.c, negotiate.c and samples.c ----

// negotiate_report: whether a sample fits into the headroom of this moment, of which what is reserved is a part; but
// not what was refused in this negotiation.
inline report()
{
    if
    :: limit > 0 -> fits = true
#ifndef BREAK_RESERVED_UNCOUNTED
    :: !reserved -> fits = false
#else
    :: fits = false
#endif
    fi
}

// The block of the planned share's first micro-step. A refusal lowers what the rank may report after it.
inline reserve()
{
    if
    :: deal[_pid] == NOTHING -> reserved = false
    :: deal[_pid] != NOTHING -> reserved = true
    :: deal[_pid] != NOTHING ->
        reserved = false;
        refused = true;
#ifndef BREAK_REFUSAL_FORGOTTEN
        limit--
#endif
    fi
}

// A micro-step: its gradients are added. With NCCL the last one of a share (run_last) has the first bucket all-reduced
// already, before this rank knows whether another one hands back samples.
inline add(samples)
{
    assert((gradient & (samples)) == NOTHING);
    gradient = gradient | (samples);
    mine = mine & ~(samples);
    if
    :: mine == NOTHING -> reduce_start(0); early = true
    :: else
    fi
}

// run_share, samples_run: the share in micro-steps. Where memory is refused the next is smaller, or pulls more levers:
// any way down will do that has an end, here from two samples to one. Where that gets no memory either, the rest of the
// share stays in `mine`.
inline run_share()
{
    d_step { mine = deal[_pid]; deal[_pid] = NOTHING; size = MOST; tries = 0 }
    assert(mine == NOTHING || fits && !stopped); // shares are only for those who may get one
    do
    :: mine == NOTHING -> break
    :: mine != NOTHING && size == 1 -> add(FIRST(mine))
    :: mine != NOTHING && size == 2 -> add(FIRST(mine) | FIRST(REST(mine)))
    :: mine != NOTHING && size == 2 -> // refused
#ifndef BREAK_SAME_CUT_AGAIN
        size = 1;
#endif
        tries++;
        assert(tries < MOST) // there is an end
    :: mine != NOTHING && size == 1 -> stopped = true; break // refused
    od;
    atomic { size = 0; tries = 0 }
#ifdef BREAK_STOPPED_LEAVES
    if
    :: stopped -> goto leave
    :: else
    fi
#endif
}

// negotiate_plan: a round of reports.
inline exchange_reports()
{
    report();
    gather_start(REPORTS);
    if
    :: gathering == EVERYBODY -> decide_on_reports(); gather_end()
    :: else
    fi;
    gather_wait()
}

// step_start, after a share: the message, the all-reduce, everybody's messages.
inline exchange_messages()
{
    report();
    gather_start(MESSAGES);
    if
    :: gathering == EVERYBODY -> decide_on_messages(); gather_end()
    :: else
    fi;
#ifdef BREAK_RESTING_SKIPS_REDUCE
    if
    :: gradient != NOTHING || early -> reduce()
    :: else
    fi;
#else
    reduce();
#endif
    gather_wait();
    round++;
    assert(round <= RANKS) // each has fewer ranks to deal to
}

// In a settling round all but rank 0 drop the total of the rounds before.
inline drop_total()
{
    if
#if defined(BREAK_TOTAL_LOST)
    :: gradient = NOTHING
#elif defined(BREAK_TOTAL_KEPT)
    :: true
#else
    :: _pid != 0 -> gradient = NOTHING
    :: _pid == 0 // keeps it
#endif
    fi
}

// step_start: rounds until nothing of the step is left.
inline run_step()
{
    d_step { reserved = false; limit = MOST }
    do
    :: true ->
        run_share();
        exchange_messages();
        if
        :: verdict != SETTLE -> break
#ifdef BREAK_ONLY_DEALT_SETTLE
        :: verdict == SETTLE && deal[_pid] == NOTHING -> break
#endif
        :: verdict == SETTLE -> drop_total()
        fi
    od
}

active [RANKS] proctype rank()
{
    byte mine = NOTHING;     // samples of the share that are not done yet
    byte gradient = NOTHING; // samples whose gradients this rank has added up
    bool fits = false;       // as reported last
    bool refused = false;    // to be reported
    bool reserved = false;   // the plan's memory is held
    byte limit = MOST;       // what it may report: less than was refused since ranks last agreed or trimmed
    byte size = 0;           // of the next micro-step
    byte tries = 0;          // micro-steps of this share that were refused
    bool stopped = false;    // a single sample was refused in this step
    bool early = false;      // the first bucket is being all-reduced
    byte round = 0;          // of this step

    do
    :: atomic { // from one wait to the next; what a rank does in between nobody sees
        verdict == REPORT || verdict == TRIM || verdict == RESERVE -> // step_plan_first, step_plan_next
        if
        :: verdict == RESERVE -> reserve()
        :: verdict == TRIM -> limit = MOST
        :: else
        fi;
        exchange_reports()
       }
    :: atomic {
        verdict == RUN ->
        run_step();
        if
        :: verdict == STEP_LOST -> assert(stopped || !fits); goto leave // exit code 3
        :: else -> assert(gradient == WHOLE_BATCH) // step_update: the whole batch, once, on every rank
        fi
       };
progress:
       d_step { gradient = NOTHING; stopped = false; round = 0 }
    :: atomic { verdict == NO_PLAN -> assert(!fits) }; break // exit code 3
    :: verdict == JOB_DONE -> break
    od;
leave:
    atomic { // what is left here is of no use to anybody
        mine = NOTHING; gradient = NOTHING; limit = MOST; size = 0; tries = 0; round = 0;
        fits = false; reserved = false; refused = false; stopped = false; early = false
    }
}

// Where a rank has died the others go on. Once they can no more, the launcher has ended them (an aborted communicator,
// mpirun): sooner would only cut short what they do.
active proctype launcher()
{
end:
    dead && timeout;
#ifndef BREAK_DEATH_UNHEARD
    aborted = true
#endif
}
