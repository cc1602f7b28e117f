// SPDX-License-Identifier: Apache-2.0
//
// Streams and events. A stream is a queue of work that runs as late as the host lets it: only when the host waits.
// Which stream goes first where several can is drawn by chance, from priorities that change now and then: that finds
// orders that a program forgot to forbid in few runs (Burckhardt et al., "A randomized scheduler with probabilistic
// guarantees of finding bugs", 2010).
#include <algorithm>
#include <deque>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <thread>
#include <time.h>
#include <unistd.h>
#include <vector>

#include "mem/random.h"
#include "state.h"

// A stream with so much work runs some of it before it takes more.
#define QUEUE_MAX 4096

struct mark {
    bool reached;
    uint64_t time_ns;
};

struct work {
    bool touches_memory; // else it is an event's, which outlives an error
    bool polled;
    std::function<bool()> run;
};

struct CUstream_st {
    int gpu;
    bool destroyed; // goes once it is empty
    uint64_t priority;
    uint64_t enqueued, finished;
    std::deque<struct work> queue;
};

struct CUevent_st {
    bool timed;
    std::shared_ptr<struct mark> mark; // NULL: never recorded
};

struct streams {
    std::vector<struct CUstream_st *> all;
    std::vector<struct CUevent_st *> events;
    struct CUstream_st *null_streams[SIMULATOR_GPUS_MAX];
    uint64_t random;
    uint64_t last_time_ns;
    uint64_t launches, failing_launch;
    uint64_t polled; // pieces of polled work in all queues
    uint64_t pumps;  // how often a thread began to run work
    bool poller;
};

static struct streams *streams()
{
    static struct streams *streams = [] {
        struct streams *made = new struct streams();
        made->random = simulator_setting("SIMULATOR_SEED", 1);
        made->failing_launch = simulator_setting("SIMULATOR_FAIL_AFTER", 0);
        return made;
    }();
    return streams;
}

// SplitMix64's next number.
static uint64_t draw()
{
    return random_mix(streams()->random += UINT64_C(0x9e3779b97f4a7c15));
}

// The null stream where `stream` is one of CUDA's names for it; NULL where it is none.
static struct CUstream_st *find_stream(cudaStream_t stream)
{
    if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
        struct CUstream_st **null_stream = &streams()->null_streams[simulator_current_gpu()];
        if (*null_stream == nullptr) {
            *null_stream = new CUstream_st{simulator_current_gpu(), false, draw(), 0, 0, {}};
            streams()->all.push_back(*null_stream);
        }
        return *null_stream;
    }
    for (struct CUstream_st *known : streams()->all) {
        if (known == stream && !known->destroyed) {
            return known;
        }
    }
    return nullptr;
}

// ---- Running ----

static bool failed()
{
    return simulator_ready(SIMULATOR_DRIVER) != cudaSuccess;
}

static void remove_stream(struct CUstream_st *stream)
{
    streams()->all.erase(std::find(streams()->all.begin(), streams()->all.end(), stream));
    delete stream;
}

// Runs the first piece of work of the stream. False where it has to wait for another.
static bool advance(struct CUstream_st *stream)
{
    struct work *work = &stream->queue.front();
    if (!work->touches_memory || !failed()) {
        if (work->touches_memory) {
            memory_open();
        }
        if (!work->run()) {
            return false;
        }
    }
    streams()->polled -= work->polled;
    stream->queue.pop_front();
    stream->finished++;
    if (stream->destroyed && stream->queue.empty()) {
        remove_stream(stream);
    }
    return true;
}

// Runs one piece of work. False where none can go on.
static bool step()
{
    std::vector<struct CUstream_st *> ready;
    for (struct CUstream_st *stream : streams()->all) {
        if (draw() % 16 == 0) {
            stream->priority = draw();
        }
        if (!stream->queue.empty()) {
            ready.push_back(stream);
        }
    }
    std::sort(ready.begin(), ready.end(), [](auto *a, auto *b) { return a->priority < b->priority; });
    return std::any_of(ready.begin(), ready.end(), advance);
}

// Runs work until `done`. Polled work waits for other processes; meanwhile other threads may have the lock.
template <typename Done> static void pump(Done done)
{
    streams()->pumps++;
    while (!done()) {
        if (step()) {
            continue;
        }
        memory_close();
        if (streams()->polled == 0) {
            fprintf(stderr, "simulator: streams wait for each other\n");
            abort();
        }
        simulator_mutex.unlock();
        usleep(50);
        simulator_mutex.lock();
    }
    memory_close();
}

static void drain(struct CUstream_st *stream)
{
    uint64_t target = stream->enqueued;
    pump([&] { return stream->finished >= target; });
}

void streams_drain(cudaStream_t handle)
{
    struct CUstream_st *stream = find_stream(handle);
    if (stream != nullptr) {
        drain(stream);
    }
}

void streams_drain_gpu(int gpu)
{
    pump([&] {
        return std::all_of(streams()->all.begin(), streams()->all.end(),
                           [&](struct CUstream_st *stream) { return stream->gpu != gpu || stream->queue.empty(); });
    });
}

// A GPU goes on while its host is busy or waits for another process. This matters only to work that others wait for,
// so only then, and once the host has not run anything for a while, this thread runs what is enqueued.
static void poll_for_ever()
{
    uint64_t seen = 0;
    for (bool active = false;;) {
        usleep(active ? 100 : 20000);
        std::lock_guard<std::mutex> guard(simulator_mutex);
        active = streams()->pumps == seen && streams()->polled > 0;
        while (active && streams()->polled > 0 && step()) {
        }
        memory_close();
        seen = streams()->pumps;
    }
}

// ---- Enqueuing ----

static cudaError_t enqueue(cudaStream_t handle, struct work work)
{
    struct CUstream_st *stream = find_stream(handle);
    if (stream == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream == streams()->null_streams[stream->gpu] && simulator_setting("SIMULATOR_STRICT", 0) != 0) {
        fprintf(stderr, "simulator: work on the null stream\n");
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->queue.size() >= QUEUE_MAX) {
        pump([&] { return stream->queue.size() <= QUEUE_MAX / 2; });
    }
    streams()->polled += work.polled;
    stream->queue.push_back(std::move(work));
    stream->enqueued++;
    return cudaSuccess;
}

cudaError_t streams_enqueue(cudaStream_t stream, bool touches_memory, std::function<bool()> run)
{
    return enqueue(stream, {touches_memory, false, std::move(run)});
}

cudaError_t streams_launch(cudaStream_t stream, std::function<void()> run)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        bool fails = ++streams()->launches == streams()->failing_launch;
        return streams_enqueue(stream, true, [run = std::move(run), fails] {
            fails ? simulator_fail(cudaErrorIllegalAddress) : run();
            return true;
        });
    });
}

void simulator_enqueue(cudaStream_t stream, std::function<void()> run)
{
    streams_launch(stream, std::move(run));
}

cudaError_t streams_enqueue_polled(cudaStream_t stream, std::function<bool()> run)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!streams()->poller) {
            streams()->poller = true;
            std::thread(poll_for_ever).detach();
        }
        return enqueue(stream, {true, true, std::move(run)});
    });
}

uint64_t simulator_launches(void)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    return streams()->launches;
}

void simulator_reset_counters(void)
{
    std::lock_guard<std::mutex> guard(simulator_mutex);
    streams()->launches = 0;
    simulator_count_device_calls = 0;
    simulator_count_host_synchronizations = 0;
}

// ---- Streams as CUDA knows them ----

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream_p, unsigned, int)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        *stream_p = new CUstream_st{simulator_current_gpu(), false, draw(), 0, 0, {}};
        streams()->all.push_back(*stream_p);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream_p, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream_p, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream_p)
{
    return cudaStreamCreateWithPriority(stream_p, cudaStreamDefault, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least_p, int *greatest_p)
{
    *least_p = 0;
    *greatest_p = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        struct CUstream_st *stream = handle == nullptr ? nullptr : find_stream(handle);
        if (stream == nullptr) {
            return cudaErrorInvalidResourceHandle;
        }
        stream->destroyed = true;
        if (stream->queue.empty()) {
            remove_stream(stream);
        }
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    simulator_count_host_synchronizations++;
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        struct CUstream_st *stream = find_stream(handle);
        if (stream == nullptr) {
            return cudaErrorInvalidResourceHandle;
        }
        drain(stream);
        return simulator_ready(SIMULATOR_DRIVER);
    });
}

// What runs while the host asks: a little, so that who asks again and again comes to an end.
static void run_a_little()
{
    streams()->pumps++;
    for (uint64_t left = 1 + draw() % 4; left > 0 && step(); left--) {
    }
    memory_close();
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        struct CUstream_st *stream = find_stream(handle);
        if (stream == nullptr) {
            return cudaErrorInvalidResourceHandle;
        }
        if (!stream->queue.empty()) {
            run_a_little();
        }
        return failed() ? simulator_ready(SIMULATOR_DRIVER) : stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
    });
}

cudaError_t cudaDeviceSynchronize(void)
{
    simulator_count_host_synchronizations++;
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        streams_drain_gpu(simulator_current_gpu());
        return simulator_ready(SIMULATOR_DRIVER);
    });
}

// ---- Events ----

static uint64_t now_ns()
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t time = static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
    streams()->last_time_ns = std::max(time, streams()->last_time_ns + 1000);
    return streams()->last_time_ns;
}

static bool is_event(cudaEvent_t event)
{
    return std::count(streams()->events.begin(), streams()->events.end(), event) == 1;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event_p, unsigned flags)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        *event_p = new CUevent_st{(flags & cudaEventDisableTiming) == 0, nullptr};
        streams()->events.push_back(*event_p);
        return cudaSuccess;
    });
}

cudaError_t cudaEventCreate(cudaEvent_t *event_p)
{
    return cudaEventCreateWithFlags(event_p, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!is_event(event)) {
            return cudaErrorInvalidResourceHandle;
        }
        streams()->events.erase(std::find(streams()->events.begin(), streams()->events.end(), event));
        delete event;
        return cudaSuccess;
    });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!is_event(event)) {
            return cudaErrorInvalidResourceHandle;
        }
        auto mark = std::make_shared<struct mark>();
        cudaError_t error = streams_enqueue(stream, false, [mark] {
            *mark = {true, now_ns()};
            return true;
        });
        if (error == cudaSuccess) {
            event->mark = mark;
        }
        return error;
    });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned)
{
    return cudaEventRecord(event, stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!is_event(event)) {
            return cudaErrorInvalidResourceHandle;
        }
        if (event->mark == nullptr) {
            return cudaSuccess;
        }
        return streams_enqueue(stream, false, [mark = event->mark] { return mark->reached; });
    });
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!is_event(event)) {
            return cudaErrorInvalidResourceHandle;
        }
        std::shared_ptr<struct mark> mark = event->mark;
        if (mark != nullptr && !mark->reached) {
            run_a_little();
        }
        bool ready = mark == nullptr || mark->reached;
        return failed() ? simulator_ready(SIMULATOR_DRIVER) : ready ? cudaSuccess : cudaErrorNotReady;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    simulator_count_host_synchronizations++;
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!is_event(event)) {
            return cudaErrorInvalidResourceHandle;
        }
        std::shared_ptr<struct mark> mark = event->mark;
        if (mark != nullptr) {
            pump([&] { return mark->reached; });
        }
        return simulator_ready(SIMULATOR_DRIVER);
    });
}

cudaError_t cudaEventElapsedTime(float *ms_p, cudaEvent_t from, cudaEvent_t to)
{
    return simulator_call(SIMULATOR_CONTEXT, [&] {
        if (!is_event(from) || !is_event(to) || !from->timed || !to->timed || from->mark == nullptr ||
            to->mark == nullptr) {
            return cudaErrorInvalidResourceHandle;
        }
        if (!from->mark->reached || !to->mark->reached) {
            return cudaErrorNotReady;
        }
        *ms_p = static_cast<float>(static_cast<double>(static_cast<int64_t>(to->mark->time_ns - from->mark->time_ns)) *
                                   1e-6);
        return cudaSuccess;
    });
}
