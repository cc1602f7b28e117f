// SPDX-License-Identifier: Apache-2.0
#include "simt.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include "mem/random.h"
#include "state.h"

// There where the program is built with AddressSanitizer. This file is not: it runs millions of times per test.
#pragma weak __sanitizer_start_switch_fiber
#pragma weak __sanitizer_finish_switch_fiber
#pragma weak __asan_unpoison_memory_region

#define STACK_BYTES (size_t{1} << 18)
#define PAGE_BYTES  4096
#define STACK_STEP  320 // from stack to stack, in a page: else all would share a few lines of the processor's cache

#define SHARED_BYTES     (size_t{48} << 10)  // of a launch
#define SHARED_BYTES_MAX (size_t{227} << 10) // where the kernel allows it
#define POISON           0xff                // NaN, and an index that no array has

uint3 simt_thread_index, simt_block_index;
dim3 simt_block_size, simt_grid_size;

// Saves the callee's registers on the present stack and goes on with another: switch_stack(&saved, other).
extern "C" void simt_switch_stack(void **saved, void *other);

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch_stack
.type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch_stack, .-simt_switch_stack
)");
#else
#error "the simulator's fibers are written for x86-64"
#endif

namespace
{

enum class state { ready, at_barrier, in_exchange, returned };

struct stack {
    const void *memory;
    size_t bytes;
    void *top; // where it goes on
};

struct fiber {
    struct stack stack;
    uint3 index;
    enum state state;
    enum simt_barrier barrier;
    int barrier_value;
    const char *exchange; // for messages
    void *answer;         // of its exchange
};

// Lanes of one warp that wait for each other.
struct group {
    group(unsigned its_mask, const char *its_kind, size_t its_bytes) : mask(its_mask), kind(its_kind), bytes(its_bytes)
    {
        if (mask != 0xffffffffu) {
            memset(values, 0, 32 * bytes);
        }
    }

    unsigned mask, arrived = 0;
    const char *kind;
    size_t bytes;
    unsigned char values[32 * SIMT_EXCHANGE_MAX]; // packed
};

struct release {
    void operator()(unsigned char *memory) const
    {
        free(memory);
    }
};

struct block {
    const char *name;
    const std::function<void()> *kernel;
    std::vector<fiber> fibers; // as many as any block had
    size_t threads;
    std::vector<std::vector<unsigned>> ready; // of each warp
    size_t ready_threads;
    bool far;                               // a warp goes on as far as it can
    size_t favoured;                        // the warp that went on last
    size_t returned, waiting;               // at the barrier
    std::vector<std::vector<group>> groups; // of each warp
    std::unique_ptr<unsigned char[], release> shared;
    fiber *present;
    struct stack host;  // of who runs the block
    struct stack *left; // from where the present fiber, or the host, was reached
    uint64_t random_state;
} running;

size_t random_below(size_t end)
{
    const uint64_t bits = random_mix(running.random_state += UINT64_C(0x9e3779b97f4a7c15));
    return static_cast<size_t>((bits >> 32) * end >> 32);
}

[[noreturn]] void give_up(const char *what)
{
    fprintf(stderr, "simulator: %s: block %u,%u,%u: %s\n", running.name, simt_block_index.x, simt_block_index.y,
            simt_block_index.z, what);
    for (size_t i = 0; i < running.threads; i++) {
        const fiber &f = running.fibers[i];
        if (f.state == state::at_barrier || f.state == state::in_exchange) {
            fprintf(stderr, "  thread %u,%u,%u waits in %s\n", f.index.x, f.index.y, f.index.z,
                    f.state == state::at_barrier ? "__syncthreads" : f.exchange);
        }
    }
    abort();
}

// AddressSanitizer is told of every change, and tells what it knows of the stack that was left.
void arrive(void *fake)
{
    if (__sanitizer_finish_switch_fiber != nullptr) {
        __sanitizer_finish_switch_fiber(fake, &running.left->memory, &running.left->bytes);
    }
}

void change_stack(struct stack *from, const struct stack *to, bool for_ever)
{
    void *fake = nullptr; // what belongs to `from`
    running.left = from;
    if (__sanitizer_start_switch_fiber != nullptr) {
        __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake, to->memory, to->bytes);
    }
    simt_switch_stack(&from->top, to->top);
    arrive(fake);
}

void make_ready(fiber &f)
{
    const size_t place = static_cast<size_t>(&f - running.fibers.data());
    f.state = state::ready;
    running.ready[place / 32].push_back(static_cast<unsigned>(place));
    running.ready_threads++;
}

// Who goes on. Where the block is `far`, a warp goes as far as it can before any other does, so that what lies between
// two barriers is done when another warp has not begun with it: on a GPU nothing keeps warps together.
fiber &take_ready()
{
    if (!running.far || running.ready[running.favoured].empty()) {
        running.favoured = random_below(running.ready.size());
    }
    while (running.ready[running.favoured].empty()) {
        running.favoured = (running.favoured + 1) % running.ready.size();
    }
    std::vector<unsigned> &ready = running.ready[running.favoured];
    unsigned &chosen = ready[random_below(ready.size())];
    fiber &f = running.fibers[chosen];
    chosen = ready.back();
    ready.pop_back();
    running.ready_threads--;
    return f;
}

// Where all threads that have not returned stand at the barrier, they go on.
void try_barrier()
{
    if (running.waiting == 0 || running.waiting + running.returned < running.threads) {
        return;
    }
    int any = 0, every = 1, count = 0;
    for (size_t i = 0; i < running.threads; i++) {
        const fiber &f = running.fibers[i];
        if (f.state == state::at_barrier) {
            any |= f.barrier_value != 0;
            every &= f.barrier_value != 0;
            count += f.barrier_value != 0;
        }
    }
    for (size_t i = 0; i < running.threads; i++) {
        fiber &f = running.fibers[i];
        if (f.state == state::at_barrier) {
            f.barrier_value = f.barrier == SIMT_BARRIER_OR ? any : f.barrier == SIMT_BARRIER_AND ? every : count;
            make_ready(f);
        }
    }
    running.waiting = 0;
}

// Goes on with any thread of the block that can, from whichever stack; with the host's when all have returned.
void go_on(struct stack *from, bool for_ever)
{
    try_barrier();
    if (running.returned == running.threads) {
        change_stack(from, &running.host, for_ever);
        return;
    }
    if (running.ready_threads == 0) {
        give_up("no thread can go on");
    }
    fiber &f = take_ready();
    running.present = &f;
    simt_thread_index = f.index;
    if (&f.stack != from) {
        change_stack(from, &f.stack, for_ever);
    }
}

void run_fiber()
{
    arrive(nullptr);
    (*running.kernel)();
    running.present->state = state::returned;
    running.returned++;
    go_on(&running.present->stack, true);
    abort(); // nobody goes on with a fiber that has returned
}

// A fresh stack on which simt_switch_stack finds six registers and the address to return to.
void prepare(fiber &f, unsigned place)
{
    if (f.stack.memory == nullptr) {
        void *memory =
            mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, PAGE_BYTES, PROT_NONE) != 0) {
            give_up("no memory for a fiber's stack");
        }
        f.stack = {memory, STACK_BYTES, nullptr};
        if (__asan_unpoison_memory_region != nullptr) {
            __asan_unpoison_memory_region(memory, STACK_BYTES); // it may have been another thread's
        }
    }
    char *end = static_cast<char *>(const_cast<void *>(f.stack.memory)) + STACK_BYTES - place * STACK_STEP % PAGE_BYTES;
    void **top = reinterpret_cast<void **>(end) - 1; // aligned as after a call
    *--top = reinterpret_cast<void *>(run_fiber);
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    f.stack.top = top;
    f.state = state::ready;
    f.index = {place % simt_block_size.x, place / simt_block_size.x % simt_block_size.y,
               place / (simt_block_size.x * simt_block_size.y)};
}

void run_block()
{
    running.ready.assign((running.threads + 31) / 32, {});
    running.ready_threads = 0;
    running.favoured = 0;
    running.returned = running.waiting = 0;
    for (unsigned i = 0; i < running.threads; i++) {
        prepare(running.fibers[i], i);
        make_ready(running.fibers[i]);
    }
    running.far = random_below(2) == 0;
    go_on(&running.host, false);
    for (const std::vector<group> &groups : running.groups) {
        if (!groups.empty()) {
            give_up("lanes have returned that others wait for");
        }
    }
}

void poison_shared(size_t bytes)
{
    void *memory = nullptr;
    if (posix_memalign(&memory, 128, std::max(bytes, size_t{1})) != 0) {
        give_up("no memory for the block's shared memory");
    }
    memset(memory, POISON, bytes);
    running.shared.reset(static_cast<unsigned char *>(memory));
}

} // namespace

unsigned char *simt_shared()
{
    return running.shared.get();
}

int simt_synchronize(enum simt_barrier kind, int value)
{
    fiber *self = running.present;
    self->state = state::at_barrier;
    self->barrier = kind;
    self->barrier_value = value;
    running.waiting++;
    go_on(&self->stack, false);
    return self->barrier_value;
}

// The group of the present fiber's warp that waits with this mask.
static group &find_group(unsigned mask, const char *kind, size_t bytes, std::vector<group> &groups)
{
    for (group &g : groups) {
        if (g.mask == mask) {
            if (g.kind != kind || g.bytes != bytes) {
                give_up("lanes of one mask are in different warp functions");
            }
            return g;
        }
        if ((g.mask & mask) != 0) {
            give_up("lanes of one warp wait with masks that overlap");
        }
    }
    return groups.emplace_back(mask, kind, bytes);
}

// Not by memcpy, which AddressSanitizer replaces by one that looks at every byte's state.
static void copy_lanes(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        __builtin_memcpy(static_cast<char *>(to) + 32 * i, static_cast<const char *>(from) + 32 * i, 32);
    }
}

void simt_exchange(unsigned mask, const char *kind, const void *mine, size_t bytes, void *all)
{
    fiber *self = running.present;
    const size_t place = static_cast<size_t>(self - running.fibers.data()), first = place / 32 * 32;
    const unsigned lane = place % 32;
    const size_t lanes = std::min(running.threads - first, size_t{32});
    const unsigned present = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    if ((mask >> lane & 1) == 0) {
        give_up("a lane is not in the mask that it waits with");
    }
    std::vector<group> &groups = running.groups[first / 32];
    group &g = find_group(mask & present, kind, bytes, groups);
    memcpy(g.values + lane * bytes, mine, bytes);
    g.arrived |= 1u << lane;
    self->answer = all;
    if (g.arrived != g.mask) {
        self->state = state::in_exchange;
        self->exchange = kind;
        go_on(&self->stack, false);
        return;
    }
    for (unsigned to = 0; to < lanes; to++) {
        if ((g.mask >> to & 1) == 0) {
            continue;
        }
        fiber &other = running.fibers[first + to];
        copy_lanes(other.answer, g.values, bytes);
        if (to != lane) {
            make_ready(other);
        }
    }
    groups.erase(groups.begin() + (&g - groups.data()));
}

static std::mutex allowed_mutex;
static std::map<const void *, size_t> allowed_bytes;

void simt_allow_shared(const void *kernel, size_t shared_bytes)
{
    std::lock_guard<std::mutex> guard(allowed_mutex);
    allowed_bytes[kernel] = std::min(shared_bytes, SHARED_BYTES_MAX);
}

static size_t allowed_shared(const void *kernel)
{
    std::lock_guard<std::mutex> guard(allowed_mutex);
    const auto found = allowed_bytes.find(kernel);
    return found == allowed_bytes.end() ? SHARED_BYTES : std::max(SHARED_BYTES, found->second);
}

bool simt_accepts(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
    const size_t threads = size_t{block.x} * block.y * block.z;
    const bool grid_fits = grid.x - 1 < 0x7fffffff && grid.y - 1 < 65535 && grid.z - 1 < 65535;
    const bool block_fits = threads - 1 < 1024 && block.z <= 64;
    const bool accepted = grid_fits && block_fits && shared_bytes <= allowed_shared(kernel);
    if (!accepted) {
        simulator_set_last_error(cudaErrorInvalidConfiguration);
    }
    return accepted;
}

void simt_run(const char *name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel)
{
    const char *seed = getenv("SIMULATOR_SEED");
    running.name = name;
    running.kernel = &kernel;
    running.threads = size_t{block.x} * block.y * block.z;
    running.fibers.resize(std::max(running.fibers.size(), running.threads));
    running.groups.assign((running.threads + 31) / 32, {});
    running.random_state = seed == nullptr ? 1 : static_cast<uint64_t>(atoi(seed));
    simt_block_size = block;
    simt_grid_size = grid;
    const size_t blocks = size_t{grid.x} * grid.y * grid.z, start = random_below(blocks);
    for (size_t i = 0; i < blocks; i++) {
        const size_t place = (start + i) % blocks;
        simt_block_index = {static_cast<unsigned>(place % grid.x), static_cast<unsigned>(place / grid.x % grid.y),
                            static_cast<unsigned>(place / (size_t{grid.x} * grid.y))};
        poison_shared(shared_bytes);
        run_block();
    }
}
