// Host side of the kernels: errors, the device asked for, and how large a grid is.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda.h"

namespace fastrealign {
namespace cuda {

inline void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // it would come back with the next call
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// Makes a device current for the length of a call.
class OnDevice {
 public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "which device is current");
        if (before_ != device) check(cudaSetDevice(device), "choosing the device");
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
    check(cudaDeviceGetAttribute(&value, which, device), "asking for a device's limits");
    return value;
}

// Whether a kernel with this much shared memory can run there.
inline bool fits(size_t shared, int device) {
    return shared <= static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

inline bool aligned(const Matrix& m, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(m.data) % static_cast<uintptr_t>(bytes) == 0 &&
           (m.rows <= 1 || m.stride % bytes == 0);
}

// A grid that the device holds at once, or smaller where there is less work, shares out `groups` groups of rows,
// `teams` teams a block.
template <typename... Params>
void launch_rows(void (*kernel)(Params...), int threads, size_t shared, int64_t groups, int teams, const Launch& launch,
                 Params... params) {
    constexpr size_t always_there = 48 * 1024;
    if (shared > always_there) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)),
              "asking for shared memory");
    }
    const int64_t useful = (groups + teams - 1) / teams;
    int64_t blocks = launch.blocks;
    if (blocks <= 0) {
        blocks = attribute(cudaDevAttrMultiProcessorCount, launch.device);
        if (useful > blocks) {
            int resident = 0;
            check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, reinterpret_cast<const void*>(kernel),
                                                                threads, shared),
                  "asking how many blocks fit (is this build for this device?)");
            blocks *= std::max(resident, 1);
        }
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(std::min(blocks, useful)));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared;
    config.stream = reinterpret_cast<cudaStream_t>(launch.stream);
    check(cudaLaunchKernelEx(&config, kernel, params...), "starting a kernel");
}

}  // namespace cuda
}  // namespace fastrealign
