// reduce: add f(y; s, b, c) over rows, exactly; nothing is stored.
//
// Bytes: each row is read once, in packs of 16 bytes per thread. Thread groups and tiles as in apply.cu. Rows stay in
// registers between their dot products and their addition, and so do a thread's sums.
//
// Arithmetic: float64 throughout, so that the sums equal the CPU's up to the rounding of single entries. An entry costs
// one quarter-rate conversion, one (no b and c) or three operations for the dot products, and one for its sum: b and c
// are added at the end, times the sums of beta and gamma (exact_sum.h).
#include "column_sums.cuh"
#include "launch.h"
#include "variants.h"

namespace fastrealign {
namespace cuda {
namespace {

constexpr double weight_rounding = 1.0 + 0x1p-20;

// Registers for float32 entries, which in float64 have bits in both words.
template <typename In, int C>
constexpr int wide_entries = sizeof(In) == 4 ? 6 * C : 0;

// `shifted`: the map has b or c; the other one may be zero.
template <typename In, int C, int V, int R, typename Group, bool shifted>
__global__ void __launch_bounds__(Group::max_block_threads,
                                  blocks_of<Group>(R * V * Pack<In, C>::words + 2 * C * V + wide_entries<In, C>, C))
    reduce_rows(const RowsParams p) {
    using Shared = SharedVector<double, C, V, Group>;
    using Sums = ColumnSums<C, V, R, Group, shifted>;
    auto* const exchange = reinterpret_cast<double*>(shared_memory());
    auto* const of_sums = exchange + exchange_doubles<Group>(static_cast<int>(blockDim.x));
    auto* const vectors = of_sums + Sums::doubles(static_cast<int>(blockDim.x));
    Group group(exchange + map_doubles);
    const RowMap& map = share_map(p, exchange);
    const Shared b(vectors, group), c(vectors + Shared::entries(group.size()), group);
    if constexpr (shifted) {
        b.fill(map_b(p), p.d);
        c.fill(map_c(p), p.d);
    }
    const int mine = group.lane() % R;
    RowTile<In, C, V, R, Group> tile;
    Sums sums(of_sums, group, p);
    __syncthreads();

    const auto work = [&](int64_t first) {
        tile.load(group, p, first);
        const Dots dots = tile.template dots<double, shifted ? 3 : 1>(group, b, c);
        Coefficients k{};
        RowState state = row_coefficients(map, dots, k);
        double weight = shifted ? fabs(k.beta * map.s) * weight_rounding : weight_rounding;
        if (state == RowState::good && !(weight <= largest_weight)) state = RowState::recompute;
        const bool present = first + mine < p.rows;
        if (!present || state != RowState::good) {
            k = {};
            weight = 0.0;
        }
        const unsigned recompute = __ballot_sync(all_lanes, present && state == RowState::recompute);
        sums.make_room(weight);
        if constexpr (shifted) sums.add_coefficients(k);
        const double mine_odd = k.alpha == 0.0 ? 0.0 : odd(k.alpha * undo_scale);
        double alpha[R];
#pragma unroll
        for (int i = 0; i < R; ++i) alpha[i] = __shfl_sync(all_lanes, mine_odd, i);
        // A chunk beyond the row is zero and is added to sums that are never read.
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int i = 0; i < R; ++i) {
#pragma unroll
                for (int e = 0; e < C; ++e) sums.add(v, e, alpha[i], scaled_float64(tile.x[i][v], e));
            }
        }
        if (recompute) {
#pragma unroll 1
            for (int i = 0; i < R; ++i) {
                if (!(recompute >> i & 1u)) continue;
                const char* const from = p.in + (first + i) * p.in_stride;
                const RowState found = map_row_slow_path(
                    group, map, map_b(p), map_c(p), p.d, [&](int j) { return load_any(from, p.type, j); },
                    [&](int j, double value) { add_to_total(p.low + j, p.high + j, value_steps(value)); });
                if (mine == i) state = found;
            }
        }
        record<R>(group, p, first + mine, state);
    };
    over_tiles<R>(group, p.rows, work, [&] { sums.flush(); });
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
    const int vectors =
        shifted ? 2 * SharedVector<double, C, V, Group>::entries(threads / groups_of<Group>(threads)) : 0;
    const size_t shared = sizeof(double) * (exchange_doubles<Group>(threads) +
                                            ColumnSums<C, V, R, Group, shifted>::doubles(threads) + vectors);
    if (!fits(shared, call.launch.device)) return false;
    launch_rows(reduce_rows<In, C, V, R, Group, shifted>, threads, shared, (call.params.rows + R - 1) / R,
                groups_of<Group>(threads), call.launch, call.params);
    return true;
}

template <typename In, bool shifted>
bool widths(const Call& call) {
    constexpr int C = 16 / sizeof(In);
    constexpr bool narrow = sizeof(In) == 2;
    constexpr int R = narrow ? 4 : 1;
    constexpr int block_columns = !narrow ? 20 : shifted ? 16 : 24;
    constexpr int block_rows = narrow && !shifted ? 2 : 1;
    return run<In, C, warp_columns(512), narrow ? 4 : 2, Warp, shifted>(call) ||
           run<In, C, warp_columns(768), narrow ? 4 : 2, Warp, shifted>(call) ||
           run<In, C, warp_columns(1024), R, Warp, shifted>(call) ||
           run<In, C, warp_columns(1280), R, Warp, shifted>(call) ||
           run<In, C, block_columns, block_rows, Block, shifted>(call);
}

template <typename In>
bool packs(const Call& call) {
    if (call.params.terms != Terms::none) return widths<In, true>(call);
    return widths<In, false>(call);
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
