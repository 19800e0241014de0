// Host side of the kernels: error checks, the current device, the grid size.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include "api.h"

namespace fastrealign {
namespace cuda {

inline void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // clears it; the next call would report it again
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// Makes a device current for the duration of a call.
class OnDevice {
 public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "getting the current device");
        if (before_ != device) check(cudaSetDevice(device), "setting the device");
        changed_ = before_ != device;
    }
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

 private:
    int before_ = 0;
    bool changed_ = false;
};

// Answers of the runtime that stay as they are, so that a call does not ask again. Key: a device, what was asked, and
// for a kernel its address, threads per block and bytes of shared memory.
struct Answers {
    using Key = std::tuple<int, int, const void*, int, size_t>;
    std::mutex guard;
    std::map<Key, int> known;
};
inline Answers& answers() {
    static Answers all;
    return all;
}
// `ask` is called once for a key; from any thread. What throws is asked again.
template <typename Ask>
int asked_once(const Answers::Key& key, const Ask& ask) {
    Answers& all = answers();
    const std::lock_guard<std::mutex> lock(all.guard);
    const auto found = all.known.find(key);
    return found != all.known.end() ? found->second : all.known.emplace(key, ask()).first->second;
}

inline int attribute(cudaDeviceAttr which, int device) {
    return asked_once({device, static_cast<int>(which), nullptr, 0, 0}, [&] {
        int value = 0;
        check(cudaDeviceGetAttribute(&value, which, device), "querying a device attribute");
        return value;
    });
}

// Blocks of a kernel that a multiprocessor of the current device holds at once, at least 1.
inline int resident_blocks(const void* kernel, int threads, size_t shared, int device) {
    constexpr size_t without_opt_in = 48 * 1024;
    const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return asked_once({device, -1, kernel, threads, shared}, [&] {
        if (shared > without_opt_in) {
            // The most that there is: other launches of the kernel may need more than this one.
            check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
                  "requesting shared memory");
        }
        int resident = 0;
        check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared),
              "querying occupancy (is this build for this device?)");
        return std::max(resident, 1);
    });
}

// Whether a block on this device can have `shared` bytes of shared memory.
inline bool fits(size_t shared, int device) {
    return shared <= static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

inline bool aligned(const Matrix& m, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(m.data) % static_cast<uintptr_t>(bytes) == 0 &&
           (m.rows <= 1 || m.stride % bytes == 0);
}

// Launches a grid over `tiles` tiles of rows; a block has `groups_per_block` thread groups. As many blocks as can be
// resident, or fewer: so many that all have equally many tiles, one more or less. Otherwise a few blocks would
// still run when all others are done.
template <typename... Params>
void launch_rows(void (*kernel)(Params...), int threads, size_t shared, int64_t tiles, int groups_per_block,
                 const Launch& launch, Params... params) {
    const int resident = resident_blocks(reinterpret_cast<const void*>(kernel), threads, shared, launch.device);
    const int64_t useful = (tiles + groups_per_block - 1) / groups_per_block;
    int64_t blocks = launch.blocks;
    if (blocks <= 0) {
        blocks = int64_t{resident} * attribute(cudaDevAttrMultiProcessorCount, launch.device);
        const int64_t rounds = (useful + blocks - 1) / blocks;
        blocks = (useful + rounds - 1) / rounds;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(std::min(blocks, useful)));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared;
    config.stream = reinterpret_cast<cudaStream_t>(launch.stream);
    check(cudaLaunchKernelEx(&config, kernel, params...), "launching a kernel");
}

}  // namespace cuda
}  // namespace fastrealign
