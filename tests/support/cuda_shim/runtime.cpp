// Runs blocks one after the other and a block's threads as fibers, which take turns at barriers and warp operations, in
// one order or the other: where a barrier is missing, a result is wrong in one of them. Then the C functions that the
// tests call.
#include <setjmp.h>
#include <ucontext.h>

#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "api.h"
#include "cuda_runtime.h"
#include "launch.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fastrealign {
namespace cuda {
constexpr size_t shared_bytes = 256 * 1024;
alignas(16) unsigned char fr_shared[shared_bytes];
}  // namespace cuda
}  // namespace fastrealign

namespace shim {

size_t shared_limit = 227 * 1024;
std::atomic<int> questions{0};
bool backwards = false;

namespace {

using fastrealign::cuda::fr_shared;
using fastrealign::cuda::shared_bytes;

constexpr int warp = 32;
constexpr size_t stack_bytes = 256 * 1024;
constexpr unsigned char poison = 0xff;  // NaN, and a size that no index has

struct Fiber {
    ucontext_t begin;  // entered once
    jmp_buf at;        // where it waits
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    bool begun = false, finished = false;
    bool second_half = false;  // warp operations write two arrays by turns
};
struct Warp {
    uint64_t words[2][warp];
    Operation operations[2][warp];
    int arrived = 0;
    uint64_t passed = 0;  // how often all lanes have met
};

jmp_buf scheduler;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
int current = 0;
int arrived = 0;
uint64_t passed = 0;
uint64_t events = 0;  // counts whatever may let a waiting fiber continue
const std::function<void()>* body = nullptr;
std::exception_ptr failure;

// Without the signal mask, which swapcontext sets by a call to the kernel each time.
void yield() {
    if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
}
void resume(Fiber& fiber) {
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    setcontext(&fiber.begin);
}

void trampoline() {
    try {
        (*body)();
    } catch (...) {
        if (!failure) failure = std::current_exception();
    }
    fibers[current].finished = true;
    ++events;
    yield();
}

// Runs the lanes of a warp until none can continue by itself; returns how many are not finished.
int run_warp(int index) {
    int left = warp;
    for (uint64_t before = events - 1; left > 0 && events != before && !failure;) {
        before = events;
        left = 0;
        for (int k = 0; k < warp && !failure; ++k) {
            current = index * warp + (backwards ? warp - 1 - k : k);
            if (fibers[current].finished) continue;
            threadIdx.x = static_cast<unsigned>(current);
            resume(fibers[current]);
            left += !fibers[current].finished;
        }
    }
    return left;
}

void run_block(int threads) {
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.begun = fiber.finished = false;
        getcontext(&fiber.begin);
        fiber.begin.uc_stack.ss_sp = fiber.stack.get();
        fiber.begin.uc_stack.ss_size = stack_bytes;
        fiber.begin.uc_link = nullptr;
        makecontext(&fiber.begin, trampoline, 0);
    }
    // Each warp goes as far as it can before the next has its turn: the furthest apart that barriers allow.
    const int warp_count = threads / warp;
    for (int left = threads; left > 0 && !failure;) {
        const uint64_t before = events;
        left = 0;
        for (int w = 0; w < warp_count && !failure; ++w) {
            left += run_warp(backwards ? warp_count - 1 - w : w);
        }
        if (left > 0 && events == before && !failure) {
            failure = std::make_exception_ptr(std::logic_error("some threads wait where others never arrive"));
        }
    }
}

}  // namespace

int lane() { return current % warp; }

const uint64_t* meet(Operation operation, uint64_t word) {
    Fiber& fiber = fibers[current];
    Warp& mine = warps[current / warp];
    const int half = fiber.second_half;
    fiber.second_half = !fiber.second_half;
    mine.words[half][lane()] = word;
    mine.operations[half][lane()] = operation;
    const uint64_t seen = mine.passed;
    if (++mine.arrived == warp) {
        mine.arrived = 0;
        ++mine.passed;
        ++events;
    }
    while (mine.passed == seen) yield();
    for (Operation other : mine.operations[half]) {
        if (other != operation) throw std::logic_error("the lanes of a warp meet in different operations");
    }
    return mine.words[half];
}

void sync_block() {
    const uint64_t seen = passed;
    if (++arrived == static_cast<int>(blockDim.x)) {
        arrived = 0;
        ++passed;
        ++events;
    }
    while (passed == seen) yield();
}

void run(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
    const int threads = static_cast<int>(config.blockDim.x);
    if (threads % warp != 0 || threads > 1024) throw std::logic_error("a block of part warps, or too large");
    if (config.dynamicSmemBytes > shared_limit) throw std::logic_error("more shared memory than there is");
    if (config.gridDim.x == 0) throw std::logic_error("an empty grid");
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    if (static_cast<int>(fibers.size()) < threads) fibers = std::vector<Fiber>(static_cast<size_t>(threads));
    body = &thread;
    failure = nullptr;
    for (unsigned block = 0; block < config.gridDim.x && !failure; ++block) {
        blockIdx = dim3(block);
        warps.assign(static_cast<size_t>(threads / warp), Warp{});
        arrived = 0;
        memset(fr_shared, poison, shared_bytes);
        run_block(threads);
        const unsigned char* rest = fr_shared + config.dynamicSmemBytes;
        const size_t size = shared_bytes - config.dynamicSmemBytes;
        // Each byte equals the next, so all equal the first.
        if (!failure && size > 0 && (*rest != poison || memcmp(rest, rest + 1, size - 1) != 0)) {
            failure = std::make_exception_ptr(std::logic_error("a write beyond the block's shared memory"));
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace shim

// --- For ctypes: null, or what went wrong
// -------------------------------------------------------------------------------------
namespace {

using namespace fastrealign::cuda;

std::string message;

template <typename Work>
const char* guarded(const Work& work) {
    try {
        work();
        return nullptr;
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
}

}  // namespace

extern "C" {

void shim_settings(int backwards, size_t shared_limit) {
    shim::backwards = backwards != 0;
    shim::shared_limit = shared_limit;
}
int shim_questions() { return shim::questions; }
int shim_grid() { return static_cast<int>(gridDim.x); }  // of the last launch
void shim_ask_from_threads(int device, int threads) {
    std::vector<std::thread> all;
    for (int i = 0; i < threads; ++i) {
        all.emplace_back([=] { attribute(cudaDevAttrMultiProcessorCount, device); });
    }
    for (std::thread& thread : all) thread.join();
}
const char* shim_prepare(double* map, int64_t d) {
    return guarded([&] { prepare({map, 0}, d, {0, 0}); });
}
const char* shim_reduce(const Matrix* in, const DeviceMap* map, const Results* results, const Launch* launch) {
    return guarded([&] { reduce(*in, *map, *results, *launch); });
}
const char* shim_apply(const Matrix* in, const Matrix* out, const DeviceMap* map, const Results* results,
                       const Launch* launch) {
    return guarded([&] { apply(*in, *out, *map, *results, *launch); });
}
const char* shim_vjp(const Matrix* in, const Matrix* gradient, const Matrix* out, const DeviceMap* map,
                     const Launch* launch) {
    return guarded([&] { vjp(*in, *gradient, *out, *map, *launch); });
}
}
