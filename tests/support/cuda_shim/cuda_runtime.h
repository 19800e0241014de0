// Enough of CUDA for a C++ compiler to compile csrc/cuda/*.cu as they are, and to run them on the CPU: runtime.cpp runs
// a block's threads as fibers. Device memory is ordinary memory. Accesses wider than their alignment, lanes that meet
// in different operations, barriers that some thread never reaches and writes beyond a block's shared memory are errors
// here, as they are on a GPU, where they may go unnoticed.
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    explicit dim3(unsigned n) : x(n) {}
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

using std::fabs;
using std::fma;
using std::fmax;
using std::sqrt;

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
    return a < b ? a : b;
}

namespace shim {
enum class Operation : int { none, shuffle_xor, shuffle, ballot, sync };

// Waits for the other lanes of the warp, and gives the 32 words that they brought to the same operation.
const uint64_t* meet(Operation operation, uint64_t word);
void sync_block();
int lane();

template <typename T>
uint64_t to_word(T value) {
    static_assert(sizeof(T) <= 8, "a word at a time");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return word;
}
template <typename T>
T from_word(uint64_t word) {
    T value;
    memcpy(&value, &word, sizeof value);
    return value;
}
template <typename T>
void require_aligned(const T* at) {
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) throw std::logic_error("misaligned access");
}
inline void all_lanes_only(unsigned mask) {
    if (mask != 0xffffffffu) throw std::logic_error("a warp operation without all lanes");
}
}  // namespace shim

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
    shim::all_lanes_only(mask);
    return shim::from_word<T>(shim::meet(shim::Operation::shuffle_xor, shim::to_word(value))[shim::lane() ^ step]);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
    shim::all_lanes_only(mask);
    return shim::from_word<T>(shim::meet(shim::Operation::shuffle, shim::to_word(value))[from]);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
    shim::all_lanes_only(mask);
    const uint64_t* votes = shim::meet(shim::Operation::ballot, vote);
    unsigned all = 0;
    for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(votes[lane]) << lane;
    return all;
}
inline void __syncwarp() { shim::meet(shim::Operation::sync, 0); }
inline void __syncthreads() { shim::sync_block(); }

// Fibers take turns at barriers only, so a plain read and write is atomic.
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    shim::require_aligned(at);
    const unsigned long long before = *at;
    *at += value;
    return before;
}
inline unsigned long long atomicMax(unsigned long long* at, unsigned long long value) {
    shim::require_aligned(at);
    const unsigned long long before = *at;
    if (value > before) *at = value;
    return before;
}

template <typename T>
T __ldcs(const T* at) {
    shim::require_aligned(at);
    return *at;
}
template <typename T>
void __stcs(T* at, T value) {
    shim::require_aligned(at);
    *at = value;
}

inline int __float_as_int(float x) { return shim::from_word<int>(shim::to_word(x)); }
inline unsigned __float_as_uint(float x) { return shim::from_word<unsigned>(shim::to_word(x)); }
inline float __uint_as_float(unsigned x) { return shim::from_word<float>(x); }
inline long long __double_as_longlong(double x) { return shim::from_word<long long>(shim::to_word(x)); }
inline double __longlong_as_double(long long x) { return shim::from_word<double>(static_cast<uint64_t>(x)); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int k = 0; k < 4; ++k) {
        if (selector >> 4 * k & 8u) throw std::logic_error("sign bits are not implemented");
        result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * k & 7u) & 0xffu) << 8 * k;
    }
    return result;
}
inline double __hiloint2double(int high, int low) {
    return shim::from_word<double>(static_cast<uint64_t>(static_cast<unsigned>(high)) << 32 |
                                   static_cast<unsigned>(low));
}

// --- The runtime
// -----------------------------------------------------------------------------------------------------------
enum cudaError_t { cudaSuccess, cudaErrorInvalidDeviceFunction, cudaErrorNoKernelImageForDevice };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;
struct cudaFuncAttributes {};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

namespace shim {
extern size_t shared_limit;         // bytes a block
extern std::atomic<int> questions;  // to the runtime, about devices and kernels
void run(const cudaLaunchConfig_t& config, const std::function<void()>& thread);
}  // namespace shim

inline const char* cudaGetErrorString(cudaError_t) { return "no error is possible here"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return ++shim::questions, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    ++shim::questions;
    *value = which == cudaDevAttrMultiProcessorCount ? 2 : static_cast<int>(shim::shared_limit);
    return cudaSuccess;
}
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
    return ++shim::questions, *blocks = 2, cudaSuccess;
}
template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args... args) {
    shim::run(*config, [&] { kernel(args...); });
    return cudaSuccess;
}
