// cudacpu.h: run CUDA C++ kernels on the CPU, compiled by g++ or clang++.
//
// One fiber per CUDA thread, one operating-system thread in all. A fiber runs until it reaches a barrier or a warp
// instruction, until it yields, or to its end; then another one runs. So every run is deterministic:
//   seed 0   program order: thread 0 first, then 1, ...; resident blocks one after the other
//   seed n   another legal interleaving: blocks and threads in another order, and a change of thread at any atomic,
//            fence or yielding load
// Found here: a barrier that not every thread reaches, lanes that wait at different warp instructions, shared memory read
// before it is written (poisoned with 0xFF: NaN, -1), writes past the dynamic shared memory, and, with
// -DCUDACPU_SANITIZE, undefined behaviour at its line in the kernel's file.
// Not found here: what needs a real memory model, rounding of the device, inline PTX.
//
// A plain load cannot be intercepted. A kernel that polls memory written by other threads loads through __ldcg, __ldcv or a
// function of its own which, without __CUDACC__, calls cudacpu::maybe_yield().
//
// The unit that includes this file holds one kernel file in an anonymous namespace, and exports its kernels with
// CUDACPU_EXPORT(name). The words of CUDA themselves (threadIdx, atomicAdd, ...) are in cudacpu_words.h.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct uint3 { unsigned x, y, z; };

// Static shared memory of all kernels of the unit lies in one linker section, so that it can be swapped as a whole.
extern "C" {
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
}

namespace cudacpu {

constexpr size_t kStackBytes = 128 << 10;           // of one fiber
constexpr size_t kDynamicBytes = 227 << 10;         // the largest shared memory of a block on any device
constexpr size_t kGuardBytes = 256;                 // beyond the dynamic shared memory; a write here is an error
constexpr uint64_t kGuard = 0xA5C3A5C3A5C3A5C3ull;
constexpr int kPatience = 256;                      // chances to yield that seed 0 lets pass: a thread that polls must end

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
    ucontext_t first;                               // the way in, once
    jmp_buf again;                                  // the way back in: no system call, unlike swapcontext
    bool begun = false;
    char* stack = nullptr;
    uint3 thread{};
    unsigned lane = 0, warp = 0;
    State state = State::ready;
    int line = 0;                                   // of the barrier at which it waits
    unsigned mask = 0;                              // of the warp instruction at which it waits
    unsigned source = 0;                            // the lane whose slot it wants; its own if nothing is moved
    uint64_t slot = 0, received = 0;                // what it gives to a barrier, and what it gets back
};

struct Block {
    uint3 index{};
    std::vector<Fiber> fibers;
    std::vector<char> statics, dynamics;            // its shared memory, while another block uses the real place
    bool placed = false;                            // has it been in the real place since it began?
    unsigned live = 0;                              // fibers that have not returned
};

static Fiber* current = nullptr;
static Block* block = nullptr;                      // the one whose shared memory is in place
static dim3 grid_size, block_size;
static jmp_buf scheduler;
static void (*kernel_entry)(void*) = nullptr;
static void* kernel_arguments = nullptr;
static char error[512];
static bool fuzz = false;
static uint64_t random_state = 1;
static int passed = 0;
static size_t dynamic_bytes = 0;
alignas(128) static char dynamic_memory[kDynamicBytes + kGuardBytes];

// ---- fibers

__attribute__((noinline)) static void suspend() {
    if (!_setjmp(current->again)) _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void resume(Fiber& fiber) {
    current = &fiber;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.again, 1);
    fiber.begun = true;
    setcontext(&fiber.first);
}

static void fiber_main() {                          // serves one thread of each block that passes through
    for (;;) {
        kernel_entry(kernel_arguments);
        current->state = State::done;
        suspend();
    }
}

static uint64_t random_bits() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 11;
}

static void record(const char* why) {               // the first error is the one that counts
    if (error[0]) return;
    if (!block || !current) { snprintf(error, sizeof error, "%s", why); return; }
    snprintf(error, sizeof error, "%s (block %u,%u,%u thread %u,%u,%u)", why, block->index.x, block->index.y, block->index.z,
             current->thread.x, current->thread.y, current->thread.z);
}

static void fail(const char* why) {                 // from a kernel: the launch ends here
    record(why);
    suspend();
}

__attribute__((noinline)) static void maybe_yield() {
    if (fuzz ? random_bits() % 4 == 0 : ++passed % kPatience == 0) suspend();
}

// ---- barriers: every party leaves a word in `slot`; the scheduler fills `received` when all are there

__attribute__((noinline)) static uint64_t block_barrier(uint64_t word, int line) {
    current->slot = word;
    current->line = line;
    current->state = State::at_block_barrier;
    suspend();
    return current->received;                       // the number of threads that gave a word other than 0
}

__attribute__((noinline)) static uint64_t warp_barrier(unsigned mask, uint64_t word, unsigned source, int line) {
    if (!(mask >> current->lane & 1)) fail("a warp instruction is called by a lane outside its mask");
    current->slot = word;
    current->mask = mask;
    current->source = source;
    current->line = line;
    current->state = State::at_warp_barrier;
    suspend();
    return current->received;
}

template <class T>
static T exchange(unsigned mask, T value, unsigned source, int line) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves 8 bytes at most");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = warp_barrier(mask, word, source, line);
    memcpy(&value, &word, sizeof value);
    return value;
}

static unsigned ballot(unsigned mask, bool vote, int line) {
    return unsigned(warp_barrier(mask, vote, 32, line));          // source 32: the votes instead of a slot
}

// All lanes of the warp that wait for each other go on together. Lanes that have returned hold nobody up.
static bool release_warp(Block& b, unsigned first) {
    bool released = false;
    const unsigned count = b.fibers.size() - first < 32 ? unsigned(b.fibers.size()) - first : 32;
    Fiber* lanes = &b.fibers[first];
    for (unsigned i = 0; i < count; ++i) {
        if (lanes[i].state != State::at_warp_barrier) continue;
        const unsigned mask = lanes[i].mask;
        bool complete = true;
        unsigned votes = 0;
        for (unsigned k = 0; k < count; ++k) {
            if (!(mask >> k & 1) || lanes[k].state == State::done) continue;
            // another mask: that lane may be in an instruction of fewer lanes first, and come here later
            if (lanes[k].state != State::at_warp_barrier || lanes[k].mask != mask) { complete = false; continue; }
            current = &lanes[k];
            if (lanes[k].line != lanes[i].line) return record("lanes of one warp wait at different warp instructions"), false;
            if (lanes[k].slot) votes |= 1u << k;
        }
        if (!complete) continue;
        for (unsigned k = 0; k < count; ++k) {
            Fiber& lane = lanes[k];                  // all in the mask are here, or have returned
            if (!(mask >> k & 1) || lane.state != State::at_warp_barrier) continue;
            const unsigned from = lane.source;
            if (from == 32) lane.received = votes;
            else if (from < count && (mask >> from & 1) && lanes[from].state != State::done) lane.received = lanes[from].slot;
            else lane.received = ~uint64_t(0);      // undefined on a device: poison
        }
        for (unsigned k = 0; k < count; ++k)
            if ((mask >> k & 1) && lanes[k].state == State::at_warp_barrier) lanes[k].state = State::ready;
        released = true;
    }
    return released;
}

static bool release_block(Block& b) {
    unsigned waiting = 0, votes = 0;
    int line = 0;
    for (Fiber& fiber : b.fibers) {
        if (fiber.state != State::at_block_barrier) continue;
        if (waiting++ == 0) line = fiber.line;
        current = &fiber;
        if (line != fiber.line) return record("threads of one block wait at different __syncthreads"), false;
        votes += fiber.slot != 0;
    }
    if (waiting == 0 || waiting < b.live) return false;
    for (Fiber& fiber : b.fibers) {
        if (fiber.state != State::at_block_barrier) continue;
        fiber.received = votes | uint64_t(waiting) << 32;
        fiber.state = State::ready;
    }
    return true;
}

// ---- shared memory

static size_t static_bytes() { return __start_cuda_shared ? size_t(__stop_cuda_shared - __start_cuda_shared) : 0; }

static void place(Block& b) {
    if (block == &b && b.placed) return;
    const size_t n = static_bytes(), m = dynamic_bytes;
    if (block && block->placed) {
        if (n) memcpy(block->statics.data(), __start_cuda_shared, n);
        memcpy(block->dynamics.data(), dynamic_memory, m + kGuardBytes);
    }
    block = &b;
    if (b.placed) {
        if (n) memcpy(__start_cuda_shared, b.statics.data(), n);
        memcpy(dynamic_memory, b.dynamics.data(), m + kGuardBytes);
    } else {
        b.statics.resize(n);
        b.dynamics.resize(m + kGuardBytes);
        if (n) memset(__start_cuda_shared, 0xFF, n);
        memset(dynamic_memory, 0xFF, m);
        for (size_t i = 0; i < kGuardBytes; i += 8) memcpy(dynamic_memory + m + i, &kGuard, 8);
        b.placed = true;
    }
}

static bool intact(const char* bytes, size_t n) {
    for (size_t i = 0; i < n; i += 8)
        if (memcmp(bytes + i, &kGuard, 8)) return false;
    return true;
}

// ---- the scheduler

static char* stacks(size_t count) {                 // kept between launches; pages never touched cost nothing
    ++count;                                        // one to spare at the bottom, so that an overflow of the first is found
    static char* memory = nullptr;
    static size_t held = 0;
    if (count <= held) return memory + kStackBytes;
    if (memory) munmap(memory, held * kStackBytes);
    void* got = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    memory = got == MAP_FAILED ? nullptr : static_cast<char*>(got);
    held = memory ? count : 0;
    return memory ? memory + kStackBytes : nullptr;
}

static void begin(Block& b, uint64_t number) {
    b.index = {unsigned(number % grid_size.x), unsigned(number / grid_size.x % grid_size.y),
               unsigned(number / grid_size.x / grid_size.y)};
    b.placed = false;
    b.live = unsigned(b.fibers.size());
    for (Fiber& fiber : b.fibers) fiber.state = State::ready;
}

static bool end(Block& b) {                         // what only shows when all threads have returned
    current = &b.fibers[0];
    if (!intact(dynamic_memory + dynamic_bytes, kGuardBytes)) return record("a write past the dynamic shared memory"), false;
    for (Fiber& fiber : b.fibers) {
        current = &fiber;
        if (fiber.begun && !intact(fiber.stack, 64)) return record("the stack of a thread overflows (128 KiB)"), false;
    }
    return true;
}

static bool run_ready(Block& b) {
    const unsigned n = unsigned(b.fibers.size());
    const unsigned start = fuzz ? random_bits() % n : 0, step = fuzz && random_bits() % 2 ? n - 1 : 1;
    bool ran = false;
    for (unsigned i = 0, t = start; i < n; ++i, t = (t + step) % n) {
        Fiber& fiber = b.fibers[t];
        if (fiber.state != State::ready) continue;
        ran = true;
        if (fuzz && random_bits() % 8 == 0) continue;             // comes later: threads drift apart
        resume(fiber);
        if (error[0]) return false;
        if (fiber.state == State::done) --b.live;
    }
    return ran;
}

static bool prepare(std::vector<Block>& blocks, unsigned threads) {
    char* memory = stacks(blocks.size() * threads);
    if (!memory) return false;
    for (Block& b : blocks) {
        b.fibers.resize(threads);
        for (unsigned t = 0; t < threads; ++t, memory += kStackBytes) {
            Fiber& fiber = b.fibers[t];
            fiber.thread = {t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
            fiber.lane = t % 32;
            fiber.warp = t / 32;
            fiber.stack = memory;
            for (size_t i = 0; i < 64; i += 8) memcpy(memory + i, &kGuard, 8);
            getcontext(&fiber.first);
            fiber.first.uc_stack.ss_sp = memory;
            fiber.first.uc_stack.ss_size = kStackBytes;
            fiber.first.uc_link = nullptr;
            makecontext(&fiber.first, fiber_main, 0);
        }
    }
    return true;
}

static int run(const unsigned* sizes, size_t dynamic, unsigned resident, uint64_t seed, void (*entry)(void*), void* arguments) {
    grid_size = {sizes[0], sizes[1], sizes[2]};
    block_size = {sizes[3], sizes[4], sizes[5]};
    dynamic_bytes = dynamic;
    kernel_entry = entry;
    kernel_arguments = arguments;
    error[0] = 0;
    fuzz = seed != 0;
    random_state = seed * 0x9E3779B97F4A7C15ull + 1;
    passed = 0;
    block = nullptr;
    current = nullptr;
    const uint64_t n_blocks = uint64_t(grid_size.x) * grid_size.y * grid_size.z;
    uint64_t next = 0;
    const uint64_t stride = fuzz && n_blocks > 2 && n_blocks % 3 != 0 ? 3 : 1;      // coprime: every block once
    const uint64_t shift = fuzz ? random_bits() % n_blocks : 0;
    std::vector<Block> blocks(resident < n_blocks ? resident : n_blocks);
    if (!prepare(blocks, block_size.x * block_size.y * block_size.z)) return record("no memory for the stacks"), 1;
    auto feed = [&](Block& b) { if (next < n_blocks) begin(b, (shift + next++ * stride) % n_blocks); };
    for (Block& b : blocks) feed(b);
    for (bool any = true; any;) {
        any = false;
        bool progress = false;
        const unsigned turn = fuzz ? random_bits() % blocks.size() : 0;
        for (unsigned k = 0; k < blocks.size(); ++k) {
            Block& b = blocks[(k + turn) % blocks.size()];
            if (!b.live) continue;
            any = true;
            place(b);
            progress |= run_ready(b);
            for (unsigned first = 0; first < b.fibers.size() && !error[0]; first += 32) progress |= release_warp(b, first);
            if (!error[0]) progress |= release_block(b);
            if (!error[0] && !b.live && end(b)) feed(b);
            if (error[0]) return 1;
        }
        if (any && !progress) return record("deadlock: threads wait for others that never come"), 1;
    }
    return 0;
}

// ---- what Python calls

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<std::remove_reference_t<A>>*>(arguments[I])...);
}

template <class... A>
static int launch(void (*kernel)(A...), const unsigned* sizes, size_t dynamic, unsigned resident, uint64_t seed, void** arguments) {
    struct Pack { void (*kernel)(A...); void** arguments; } pack{kernel, arguments};
    return run(sizes, dynamic, resident, seed, [](void* p) {
        auto* packed = static_cast<Pack*>(p);
        call(packed->kernel, packed->arguments, std::index_sequence_for<A...>{});
    }, &pack);
}

template <class T> constexpr char kind() {          // NumPy's letter for the type
    return std::is_void_v<T> ? 'V' : std::is_same_v<T, bool> ? 'b' : std::is_floating_point_v<T> ? 'f'
         : !std::is_integral_v<T> ? 'V' : std::is_signed_v<T> ? 'i' : 'u';
}
template <class T> constexpr char width() {
    if constexpr (std::is_void_v<T>) return '0'; else return char('0' + sizeof(T));
}
template <class T> static char* describe(char* out) {
    using Target = std::remove_pointer_t<T>;
    using Value = std::remove_cv_t<Target>;
    *out++ = std::is_pointer_v<T> ? '*' : ' ';
    *out++ = std::is_const_v<Target> ? 'c' : ' ';
    *out++ = kind<Value>();
    *out++ = width<Value>();
    return out;
}
template <class... A> static int signature(void (*)(A...), char* out) {
    ((out = describe<A>(out)), ...);
    return int(sizeof...(A));
}

// ---- undefined behaviour: -fsanitize=undefined calls these instead of libubsan, so that a launch fails and Python lives

#ifdef CUDACPU_SANITIZE
struct Place { const char* file; uint32_t line, column; };
__attribute__((no_sanitize("undefined"))) static void undefined(const void* where, const char* what) {
    const Place* place = static_cast<const Place*>(where);
    char text[256];
    snprintf(text, sizeof text, "%s at %s:%u", what, place->file ? place->file : "?", place->line);
    fail(text);
}
#define CUDACPU_HANDLER(name, what) \
    extern "C" void __ubsan_handle_##name(void* where, ...) { cudacpu::undefined(where, what); }
CUDACPU_HANDLER(add_overflow, "signed integer overflow in +")
CUDACPU_HANDLER(sub_overflow, "signed integer overflow in -")
CUDACPU_HANDLER(mul_overflow, "signed integer overflow in *")
CUDACPU_HANDLER(negate_overflow, "signed integer overflow in negation")
CUDACPU_HANDLER(divrem_overflow, "integer division by zero, or its overflow")
CUDACPU_HANDLER(shift_out_of_bounds, "shift by a negative or too large number of bits")
CUDACPU_HANDLER(out_of_bounds, "index outside an array of known size")
CUDACPU_HANDLER(builtin_unreachable, "unreachable code reached")
CUDACPU_HANDLER(missing_return, "a function that returns a value ends without return")
CUDACPU_HANDLER(vla_bound_not_positive, "variable length array of no length")
CUDACPU_HANDLER(load_invalid_value, "a bool or enum that holds another value")
CUDACPU_HANDLER(nonnull_arg, "null pointer passed")
CUDACPU_HANDLER(pointer_overflow, "pointer arithmetic overflows")
CUDACPU_HANDLER(type_mismatch_v1, "null or misaligned pointer")
CUDACPU_HANDLER(float_cast_overflow, "float outside the range of the integer")
CUDACPU_HANDLER(invalid_builtin, "count of leading or trailing zeros of 0")
#endif

}  // namespace cudacpu

#define CUDACPU_API extern "C" __attribute__((visibility("default")))
#define CUDACPU_EXPORT(name) \
    CUDACPU_API int cudacpu_launch_##name(const unsigned* sizes, size_t dynamic, unsigned resident, unsigned long long seed, \
                                          void** arguments) { \
        return cudacpu::launch(&name, sizes, dynamic, resident, seed, arguments); \
    } \
    CUDACPU_API int cudacpu_signature_##name(char* out) { return cudacpu::signature(&name, out); }

#include "cudacpu_words.h"
