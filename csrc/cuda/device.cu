// The devices of the machine, the ones that this build supports, and the header of a map on the device.
#include "launch.h"
#include "thread_group.cuh"

namespace fastrealign {
namespace cuda {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) prepare_map(double* map, int d) {
    const Block group(reinterpret_cast<double*>(shared_memory()));
    const double* const b = map + map_header;
    const double* const c = b + d;
    double bb = 0.0, bc = 0.0, cc = 0.0, largest_b = 0.0, largest_c = 0.0;
    for (int j = group.rank(); j < d; j += group.size()) {
        bb = fma(b[j], b[j], bb);
        bc = fma(b[j], c[j], bc);
        cc = fma(c[j], c[j], cc);
        largest_b = fmax(largest_b, fabs(b[j]));
        largest_c = fmax(largest_c, fabs(c[j]));
    }
    bb = group.sum(bb);
    bc = group.sum(bc);
    cc = group.sum(cc);
    largest_b = group.max(largest_b);
    largest_c = group.max(largest_c);
    if (group.rank() == 0) {
        map[map_field::bb] = bb;
        map[map_field::bc] = bc;
        map[map_field::cc] = cc;
        map[map_field::largest_b] = largest_b;
        map[map_field::largest_c] = largest_c;
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
    check(error, "querying this build's kernels");
    return true;
}

void prepare(const DeviceMap& map, int64_t d, const Launch& launch) {
    const OnDevice on(launch.device);
    const size_t shared = sizeof(double) * Block::exchange_doubles(threads / warp_size);
    launch_rows(prepare_map, threads, shared, 1, 1, launch, map.values, static_cast<int>(d));
}

}  // namespace cuda
}  // namespace fastrealign
