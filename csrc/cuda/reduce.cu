// reduce: add f(y; s, b, c) over rows, exactly; nothing is stored.
//
// Bytes: each row is read once, in packs of 16 bytes per thread. Thread groups and tiles as in apply.cu. Rows stay in
// registers between their dot products and their addition, and so do a thread's sums, until the end or until 2^22 rows.
//
// Arithmetic: float64 throughout, so that the sums equal the CPU's up to the rounding of single entries. On a
// data-centre GPU the kernel is still memory-bound: an entry costs one quarter-rate conversion, one integer addition,
// and two (no b and c) or seven float64 operations.
#include "launch.h"
#include "rows.cuh"
#include "variants.h"

namespace fastrealign {
namespace cuda {
namespace {

// `shifted`: the map has b or c; the other one may be zero.
template <typename In, int C, int V, int R, typename Group, bool shifted>
__global__ void __launch_bounds__(Group::max_block_threads, blocks_of<Group>(R * V * Pack<In, C>::words + 2 * C * V, C))
    reduce_rows(const RowsParams p) {
    using Shared = SharedVector<double, C, V, Group>;
    constexpr int P = Shared::P;
    auto* const exchange = reinterpret_cast<double*>(shared_memory());
    auto* const vectors = exchange + exchange_doubles<Group, C, true>(static_cast<int>(blockDim.x));
    Group group(exchange);
    const Shared b(vectors, group), c(vectors + Shared::entries(group.size()), group);
    if constexpr (shifted) {
        b.fill(map_b(p), p.d);
        c.fill(map_c(p), p.d);
        __syncthreads();
    }

    const RowMap map = read_map(p);
    const int mine = group.lane() % R;
    RowTile<In, C, V, R, Group> tile;
    ColumnSums<C, V, Group> columns;

    const auto work = [&](int64_t first) {
        tile.load(group, p, first);
        const Dots dots = tile.template dots<double, shifted ? 3 : 1>(group, b, c);
        Coefficients k{};
        RowState state = row_coefficients(map, dots, k);
        const bool present = first + mine < p.rows;
        const unsigned good = __ballot_sync(all_lanes, present && state == RowState::good);
        const unsigned recompute = __ballot_sync(all_lanes, present && state == RowState::recompute);
        double alpha[R], beta[R], gamma[R];
#pragma unroll
        for (int i = 0; i < R; ++i) {
            alpha[i] = __shfl_sync(all_lanes, k.alpha * undo_scale, i);
            beta[i] = shifted ? __shfl_sync(all_lanes, k.beta, i) : 0.0;
            gamma[i] = shifted ? __shfl_sync(all_lanes, k.gamma, i) : 0.0;
            columns.rows += static_cast<int>(good >> i & 1u);
        }
        __syncwarp();  // forces a reload of b and c, as in apply.cu
#pragma unroll
        for (int v = 0; v < V; ++v) {
            // A chunk beyond the row is zero and is added to sums that are never read.
#pragma unroll
            for (int plane = 0; plane < Shared::planes; ++plane) {
                double at_b[P] = {}, at_c[P] = {};
                if constexpr (shifted) {
                    b.load(v, plane, at_b);
                    c.load(v, plane, at_c);
                }
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    if (!(good >> i & 1u)) continue;
#pragma unroll
                    for (int e = 0; e < P; ++e) {
                        const double x = scaled_float64<sizeof(In) == 2>(element(tile.x[i][v], plane * P + e));
                        uint64_t& sum = columns.bits[v][plane * P + e];
                        if constexpr (shifted) {
                            const double shift = fma(gamma[i], at_c[e], beta[i] * at_b[e]);
                            sum += sum_bits(fma(alpha[i], x, shift));
                        } else {
                            sum += bits_of(fma(alpha[i], x, rounding_offset));
                        }
                    }
                }
            }
        }
        if (recompute) {
#pragma unroll 1
            for (int i = 0; i < R; ++i) {
                if (!(recompute >> i & 1u)) continue;
                const char* const from = p.in + (first + i) * p.in_stride;
                const RowState found = map_row_slow_path(
                    group, map, map_b(p), map_c(p), p.d, [&](int j) { return load_any(from, p.type, j); },
                    [&](int j, double value) { add_to_total(p.low + j, p.high + j, steps_of(value)); });
                if (mine == i) state = found;
            }
        }
        record<R>(group, p, first + mine, state);
    };
    over_tiles<R>(group, p.rows, work, [&] { columns.flush(group, p, exchange); });
}

struct Call {
    RowsParams params;
    Launch launch;
};

// E columns per thread, R rows per tile. Returns false where the row is too wide, or shared memory too small.
template <typename In, int C, int E, int R, typename Group, bool shifted>
bool run(const Call& call) {
    constexpr int V = E / C;
    const int d = call.params.d;
    if (d > E * Group::max_size) return false;
    const int threads = threads_of<Group>(d / C, V);
    const int entries =
        shifted ? 2 * SharedVector<double, C, V, Group>::entries(threads / groups_of<Group>(threads)) : 0;
    const size_t shared = sizeof(double) * (exchange_doubles<Group, C, true>(threads) + entries);
    if (!fits(shared, call.launch.device)) return false;
    launch_rows(reduce_rows<In, C, V, R, Group, shifted>, threads, shared, (call.params.rows + R - 1) / R,
                groups_of<Group>(threads), call.launch, call.params);
    return true;
}

template <typename In>
bool packs(const Call& call) {
    constexpr int C = 16 / sizeof(In);
    constexpr int R = sizeof(In) == 2 ? 4 : 2;
    if (call.params.terms != Terms::none) {
        return run<In, C, 24, 2, Warp, true>(call) || run<In, C, 40, 2, Warp, true>(call) ||
               run<In, C, 24, 1, Block, true>(call);
    }
    return run<In, C, 16, 4, Warp, false>(call) || run<In, C, 24, R, Warp, false>(call) ||
           run<In, C, 32, R, Warp, false>(call) || run<In, C, 40, R, Warp, false>(call) ||
           run<In, C, 24, R / 2, Block, false>(call);
}

bool fast_path(const Matrix& in, const Call& call) {
    if (in.type == DType::float64) return false;
    const int chunk = in.type == DType::float32 ? 4 : 8;
    if (in.d % chunk != 0 || !aligned(in, 16)) return run<Any, 1, single_columns, 1, Block, true>(call);
    return in.type == DType::float32   ? packs<float>(call)
           : in.type == DType::float16 ? packs<Half>(call)
                                       : packs<BFloat>(call);
}

}  // namespace

void reduce(const Matrix& in, const DeviceMap& map, const Results& results, const Launch& launch) {
    if (in.rows == 0) return;
    const OnDevice on(launch.device);
    const Call call{rows_params(in, map, results, launch, float64_throughout), launch};
    if (!fast_path(in, call)) any_rows(in, nullptr, map, results, launch);
}

}  // namespace cuda
}  // namespace fastrealign
