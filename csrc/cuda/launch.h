// Host side of the kernels: error checks, the current device, the grid size.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

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

inline int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "querying a device attribute");
    return value;
}

// Whether a block on this device can have `shared` bytes of shared memory.
inline bool fits(size_t shared, int device) {
    return shared <= static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

inline bool aligned(const Matrix& m, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(m.data) % static_cast<uintptr_t>(bytes) == 0 &&
           (m.rows <= 1 || m.stride % bytes == 0);
}

// Launches a grid of as many blocks as can be resident, or fewer where there is less work, over `tiles` tiles of rows;
// a block has `groups_per_block` thread groups.
template <typename... Params>
void launch_rows(void (*kernel)(Params...), int threads, size_t shared, int64_t tiles, int groups_per_block,
                 const Launch& launch, Params... params) {
    constexpr size_t without_opt_in = 48 * 1024;
    if (shared > without_opt_in) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)),
              "requesting shared memory");
    }
    const int64_t useful = (tiles + groups_per_block - 1) / groups_per_block;
    int64_t blocks = launch.blocks;
    if (blocks <= 0) {
        blocks = attribute(cudaDevAttrMultiProcessorCount, launch.device);
        if (useful > blocks) {
            int resident = 0;
            check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, reinterpret_cast<const void*>(kernel),
                                                                threads, shared),
                  "querying occupancy (is this build for this device?)");
            blocks *= std::max(resident, 1);
        }
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
