// What the machine has, what this build can run on, and the header of a map on the device.
#include "launch.h"
#include "team.cuh"

namespace fastrealign {
namespace cuda {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) prepare_map(double* map, int d) {
    const BlockTeam team(reinterpret_cast<double*>(shared_memory()));
    const double* const b = map + map_header;
    const double* const c = b + d;
    double bb = 0.0, bc = 0.0, cc = 0.0, largest_b = 0.0, largest_c = 0.0;
    for (int j = team.rank(); j < d; j += team.size()) {
        bb = fma(b[j], b[j], bb);
        bc = fma(b[j], c[j], bc);
        cc = fma(c[j], c[j], cc);
        largest_b = fmax(largest_b, fabs(b[j]));
        largest_c = fmax(largest_c, fabs(c[j]));
    }
    bb = team.sum(bb);
    bc = team.sum(bc);
    cc = team.sum(cc);
    largest_b = team.max(largest_b);
    largest_c = team.max(largest_c);
    if (team.rank() == 0) {
        map[1] = bb;
        map[2] = bc;
        map[3] = cc;
        map[4] = largest_b;
        map[5] = largest_c;
    }
}

}  // namespace

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();
    return 0;
}

bool can_run(int device) {
    const OnDevice on(device);
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(prepare_map));
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return false;
    }
    check(error, "looking for this build's machine code");
    return true;
}

void prepare(const DeviceMap& map, int64_t d, const Launch& launch) {
    const OnDevice on(launch.device);
    const size_t shared = sizeof(double) * BlockTeam::exchange_doubles(threads / warp_size);
    launch_rows(prepare_map, threads, shared, 1, 1, launch, map.values, static_cast<int>(d));
}

}  // namespace cuda
}  // namespace fastrealign
