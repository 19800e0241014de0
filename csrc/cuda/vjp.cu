// vjp: for each row y and a gradient g of f(y; s, b, c), the gradient of y. Rows without a direction get zeros.
//
// Bytes: y and g are read once each and the result is written once. A thread group holds both in registers, computes
// six dot products in float64, and writes A g + B y + C b + D c (row_gradient.h). Variants as in apply.cu, where y, g
// and result have one type; everything else takes the slow path in float64.
#include "launch.h"
#include "row_gradient.h"
#include "rows.cuh"
#include "variants.h"

namespace fastrealign {
namespace cuda {
namespace {

// Entries are float32 sums of four products. Rows narrower than this, whose entries are often near 1, need float64.
constexpr int64_t narrow_width = 16;

struct Gradient {
    const char* data;
    int64_t stride;
    DType type;
};

// The slow path: one row in float64, from the definition, back through one projection after the other.
template <typename Group, typename LoadY, typename LoadG>
FR_DEVICE void vjp_row_slow_path(const Group& group, const RowMap& map, const RowsParams& p, LoadY load_y, LoadG load_g,
                                 char* to, DType type) {
    SlowPathRow<LoadY> row(map, map_b(p), map_c(p), p.d, load_y);
    if (row.find(group) != RowState::good) {
        for (int j = group.rank(); j < p.d; j += group.size()) store_any(to, type, j, 0.0);
        return;
    }
    const auto dot = [&](auto left, auto right) {
        double sum = 0.0;
#pragma unroll 1
        for (int j = group.rank(); j < p.d; j += group.size()) sum = fma(left(j), right(j), sum);
        return group.sum(sum);
    };
    const auto value = [&](int j) { return row.value(j); };
    const double g_o = map.terms == Terms::bc ? dot(load_g, value) : 0.0;
    const auto at_v = [&](int j) { return (load_g(j) - g_o * row.value(j)) * row.inv_v(); };
    const auto projected = [&](int j) { return row.projected(j); };
    const double gv_e = map.terms == Terms::none ? 0.0 : dot(at_v, projected);
    const double s = map.terms == Terms::none ? 1.0 : map.s;
    const auto at_unit = [&](int j) { return s * (at_v(j) - gv_e * row.projected(j)) * row.inv_u(); };
    const auto unit = [&](int j) { return row.unit(j); };
    const double along = dot(at_unit, unit);
#pragma unroll 1
    for (int j = group.rank(); j < p.d; j += group.size()) {
        store_any(to, type, j, row.over_norm(at_unit(j) - along * row.unit(j)));
    }
}

template <typename T, int C, int V, int R, typename Group>
__global__ void __launch_bounds__(Group::max_block_threads, blocks_of<Group>(2 * R * V * Pack<T, C>::words + 16, C))
    vjp_rows(const RowsParams p, const Gradient gradient, const Target out) {
    using Shared = SharedVector<float, C, V, Group>;
    auto* const exchange = reinterpret_cast<double*>(shared_memory());
    auto* const vectors = reinterpret_cast<float*>(exchange + exchange_doubles<Group>(static_cast<int>(blockDim.x)));
    Group group(exchange + map_doubles);
    const Shared b(vectors, group), c(vectors + Shared::entries(group.size()), group);
    b.fill(map_b(p), p.d);
    c.fill(map_c(p), p.d);
    __syncthreads();

    const RowMap map = read_map(p);
    const int chunks = p.d / C;
    const int mine = group.lane() % R;
    RowsParams gradient_rows = p;
    gradient_rows.in = gradient.data;
    gradient_rows.in_stride = gradient.stride;
    RowTile<T, C, V, R, Group> y, g;

    const auto work = [&](int64_t first) {
        y.load(group, p, first);
        g.load(group, gradient_rows, first);
        double sums[6][R] = {};
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int plane = 0; plane < Shared::planes; ++plane) {
                float at_b[Shared::P], at_c[Shared::P];
                b.load(v, plane, at_b);
                c.load(v, plane, at_c);
#pragma unroll
                for (int e = 0; e < Shared::P; ++e) {
                    const double b_j = at_b[e], c_j = at_c[e];
#pragma unroll
                    for (int i = 0; i < R; ++i) {
                        const double y_j = element(y.x[i][v], plane * Shared::P + e);
                        const double g_j = element(g.x[i][v], plane * Shared::P + e);
                        sums[0][i] = fma(y_j, y_j, sums[0][i]);
                        sums[1][i] = fma(y_j, b_j, sums[1][i]);
                        sums[2][i] = fma(y_j, c_j, sums[2][i]);
                        sums[3][i] = fma(g_j, y_j, sums[3][i]);
                        sums[4][i] = fma(g_j, b_j, sums[4][i]);
                        sums[5][i] = fma(g_j, c_j, sums[5][i]);
                    }
                }
            }
        }
        double dots[6];
        group.sum_rows(sums, dots);
        Coefficients k{};
        const Dots of_y{dots[0], dots[1], dots[2]};
        const RowState state = row_coefficients(map, of_y, k);
        const GradientCoefficients mix = state == RowState::good
                                             ? gradient_coefficients(map, of_y, k, {dots[3], dots[4], dots[5]})
                                             : GradientCoefficients{};
        const bool present = first + mine < p.rows;
        const unsigned good = __ballot_sync(all_lanes, present && state == RowState::good);
        const unsigned recompute = __ballot_sync(all_lanes, present && state == RowState::recompute);
        float of_row[R][4];
#pragma unroll
        for (int i = 0; i < R; ++i) {
            of_row[i][0] = __shfl_sync(all_lanes, static_cast<float>(mix.g), i);
            of_row[i][1] = __shfl_sync(all_lanes, static_cast<float>(mix.y), i);
            of_row[i][2] = __shfl_sync(all_lanes, static_cast<float>(mix.b), i);
            of_row[i][3] = __shfl_sync(all_lanes, static_cast<float>(mix.c), i);
        }
        __syncwarp();  // forces a reload of b and c, as in apply.cu
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int chunk = group.rank() + v * group.size();
            float at_b[Shared::planes][Shared::P], at_c[Shared::planes][Shared::P];
#pragma unroll
            for (int plane = 0; plane < Shared::planes; ++plane) {
                b.load(v, plane, at_b[plane]);
                c.load(v, plane, at_c[plane]);
            }
#pragma unroll
            for (int i = 0; i < R; ++i) {
                float value[C];
#pragma unroll
                for (int e = 0; e < C; ++e) {
                    const float b_j = at_b[e / Shared::P][e % Shared::P], c_j = at_c[e / Shared::P][e % Shared::P];
                    const float shift = fmaf(of_row[i][2], b_j, of_row[i][3] * c_j);
                    value[e] =
                        fmaf(of_row[i][0], element(g.x[i][v], e), fmaf(of_row[i][1], element(y.x[i][v], e), shift));
                }
                if ((good >> i & 1u) && chunk < chunks) {
                    T* const row = reinterpret_cast<T*>(out.data + (first + i) * out.stride);
                    store_pack(row + chunk * C, pack_of<T>(value));
                }
            }
        }
        if (recompute) {
#pragma unroll 1
            for (int i = 0; i < R; ++i) {
                if (!(recompute >> i & 1u)) continue;
                const char* const from_y = p.in + (first + i) * p.in_stride;
                const char* const from_g = gradient.data + (first + i) * gradient.stride;
                vjp_row_slow_path(
                    group, map, p, [&](int j) { return load_any(from_y, p.type, j); },
                    [&](int j) { return load_any(from_g, p.type, j); }, out.data + (first + i) * out.stride, p.type);
            }
        }
    };
    over_tiles<R>(group, p.rows, work, [] {});
}

constexpr int block_threads = 128;

// Four blocks per multiprocessor, as for rows_of_any_type.
__global__ void __launch_bounds__(block_threads, 4)
    vjp_of_any_type(const RowsParams p, const Gradient gradient, const Target out) {
    const Warp group(nullptr);
    const RowMap map = read_map(p);
    const auto work = [&](int64_t row) {
        const char* const from_y = p.in + row * p.in_stride;
        const char* const from_g = gradient.data + row * gradient.stride;
        vjp_row_slow_path(
            group, map, p, [&](int j) { return load_any(from_y, p.type, j); },
            [&](int j) { return load_any(from_g, gradient.type, j); }, out.data + row * out.stride, out.type);
    };
    over_tiles<1>(group, p.rows, work, [] {});
}

struct Call {
    RowsParams params;
    Gradient gradient;
    Target out;
    Launch launch;
};

template <typename T, int E, int R, typename Group>
bool run(const Call& call) {
    constexpr int C = 16 / sizeof(T);
    constexpr int V = E / C;
    const int d = call.params.d;
    if (d > E * Group::max_size) return false;
    const int threads = threads_of<Group>(d / C, V);
    const size_t shared =
        sizeof(double) * exchange_doubles<Group>(threads) +
        2 * sizeof(float) * SharedVector<float, C, V, Group>::entries(threads / groups_of<Group>(threads));
    if (!fits(shared, call.launch.device)) return false;
    launch_rows(vjp_rows<T, C, V, R, Group>, threads, shared, (call.params.rows + R - 1) / R, groups_of<Group>(threads),
                call.launch, call.params, call.gradient, call.out);
    return true;
}

template <typename T>
bool packs(const Call& call) {
    constexpr int R = sizeof(T) == 2 ? 2 : 1;
    return run<T, warp_columns(768), R, Warp>(call) || run<T, warp_columns(1280), R, Warp>(call) ||
           run<T, 32, 1, Block>(call);
}

bool fast_path(const Matrix& in, const Matrix& gradient, const Matrix& out, const Call& call) {
    if (in.type == DType::float64 || gradient.type != in.type || out.type != in.type) return false;
    if (in.d < narrow_width && in.type == DType::float32) return false;
    const int chunk = in.type == DType::float32 ? 4 : 8;
    if (in.d % chunk != 0 || !aligned(in, 16) || !aligned(gradient, 16) || !aligned(out, 16)) return false;
    return in.type == DType::float32   ? packs<float>(call)
           : in.type == DType::float16 ? packs<Half>(call)
                                       : packs<BFloat>(call);
}

}  // namespace

void vjp(const Matrix& in, const Matrix& gradient, const Matrix& out, const DeviceMap& map, const Launch& launch) {
    if (in.rows == 0) return;
    const OnDevice on(launch.device);
    const Call call{rows_params(in, map, {}, launch, float32_gradient),
                    {static_cast<const char*>(gradient.data), gradient.stride, gradient.type},
                    {static_cast<char*>(out.data), out.stride, out.type},
                    launch};
    if (fast_path(in, gradient, out, call)) return;
    launch_rows(vjp_of_any_type, block_threads, 0, in.rows, block_threads / warp_size, launch, call.params,
                call.gradient, call.out);
}

}  // namespace cuda
}  // namespace fastrealign
