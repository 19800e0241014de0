// reduce: add f(y; s, b, c) over rows, exactly; nothing is stored.
//
// Bytes: each row is read once, in packs of 16 bytes a thread. Teams and rows in flight as in apply.cu; the rows stay
// in registers between their dot products and their addition, and so do a thread's sums until the end, or until 2^22
// rows.
//
// Arithmetic: float64 throughout, so that the sums are the CPU's up to a rounding of single entries. On a data-centre
// GPU memory is still the limit: an entry costs a conversion (a quarter-rate slot), two float64 operations (none) or
// seven (b and c), and an integer addition.
#include "launch.h"
#include "paths.h"
#include "rows.cuh"

namespace fastrealign {
namespace cuda {
namespace {

// `shifted`: with b and c; where one of them is not there it is zero.
template <typename In, int C, int V, int R, typename Team, bool shifted>
__global__ void __launch_bounds__(Team::most_threads, blocks_of<Team>(R * V * Pack<In, C>::words + 2 * C * V, C))
    reduce_rows(const RowsParams p) {
    using Shared = SharedVector<double, C, V, Team>;
    constexpr int P = Shared::P;
    auto* const exchange = reinterpret_cast<double*>(shared_memory());
    auto* const vectors = exchange + exchange_doubles<Team, C, true>(static_cast<int>(blockDim.x));
    Team team(exchange);
    const Shared b(vectors, team), c(vectors + Shared::entries(team.size()), team);
    if constexpr (shifted) {
        b.fill(map_b(p), p.d);
        c.fill(map_c(p), p.d);
        __syncthreads();
    }

    const RowMap map = read_map(p);
    const int mine = team.lane() % R;
    RowGroup<In, C, V, R, Team> group;
    ColumnSums<C, V, Team> columns;

    const auto work = [&](int64_t first) {
        group.load(team, p, first);
        const Dots dots = group.template dots<double, shifted ? 3 : 1>(team, b, c);
        Coefficients k{};
        RowState state = row_coefficients(map, dots, k);
        const bool present = first + mine < p.rows;
        const unsigned good = __ballot_sync(all_lanes, present && state == RowState::good);
        const unsigned again = __ballot_sync(all_lanes, present && state == RowState::again);
        double alpha[R], beta[R], gamma[R];
#pragma unroll
        for (int i = 0; i < R; ++i) {
            alpha[i] = __shfl_sync(all_lanes, k.alpha * undo_scale, i);
            beta[i] = shifted ? __shfl_sync(all_lanes, k.beta, i) : 0.0;
            gamma[i] = shifted ? __shfl_sync(all_lanes, k.gamma, i) : 0.0;
            columns.rows += static_cast<int>(good >> i & 1u);
        }
        __syncwarp();  // as in apply.cu
#pragma unroll
        for (int v = 0; v < V; ++v) {
            // A chunk beyond the row is zero and goes into sums that nobody reads.
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
                        const double x = scaled_float64<sizeof(In) == 2>(element(group.x[i][v], plane * P + e));
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
        if (again) {
#pragma unroll 1
            for (int i = 0; i < R; ++i) {
                if (!(again >> i & 1u)) continue;
                const char* const from = p.in + (first + i) * p.in_stride;
                const RowState found = take_the_long_way(
                    team, map, map_b(p), map_c(p), p.d, [&](int j) { return load_any(from, p.type, j); },
                    [&](int j, double value) { add_to_total(p.low + j, p.high + j, steps_of(value)); });
                if (mine == i) state = found;
            }
        }
        record<R>(team, p, first + mine, state);
    };
    over_groups<R>(team, p.rows, work, [&] { columns.flush(team, p, exchange); });
}

struct Call {
    RowsParams params;
    Launch launch;
};

// E columns a thread, R rows at once. False: the row is too wide for it, or the device has too little shared memory.
template <typename In, int C, int E, int R, typename Team, bool shifted>
bool run(const Call& call) {
    constexpr int V = E / C;
    const int d = call.params.d;
    if (d > E * Team::widest) return false;
    const int threads = threads_of<Team>(d / C, V);
    const int entries = shifted ? 2 * SharedVector<double, C, V, Team>::entries(threads / teams_of<Team>(threads)) : 0;
    const size_t shared = sizeof(double) * (exchange_doubles<Team, C, true>(threads) + entries);
    if (!fits(shared, call.launch.device)) return false;
    launch_rows(reduce_rows<In, C, V, R, Team, shifted>, threads, shared, (call.params.rows + R - 1) / R,
                teams_of<Team>(threads), call.launch, call.params);
    return true;
}

template <typename In>
bool packs(const Call& call) {
    constexpr int C = 16 / sizeof(In);
    constexpr int R = sizeof(In) == 2 ? 4 : 2;
    if (call.params.terms != Terms::none) {
        return run<In, C, 24, 2, WarpTeam, true>(call) || run<In, C, 40, 2, WarpTeam, true>(call) ||
               run<In, C, 24, 1, BlockTeam, true>(call);
    }
    return run<In, C, 16, 4, WarpTeam, false>(call) || run<In, C, 24, R, WarpTeam, false>(call) ||
           run<In, C, 32, R, WarpTeam, false>(call) || run<In, C, 40, R, WarpTeam, false>(call) ||
           run<In, C, 24, R / 2, BlockTeam, false>(call);
}

bool quick(const Matrix& in, const Call& call) {
    if (in.type == DType::float64) return false;
    const int chunk = in.type == DType::float32 ? 4 : 8;
    if (in.d % chunk != 0 || !aligned(in, 16)) return run<Any, 1, single_columns, 1, BlockTeam, true>(call);
    return in.type == DType::float32   ? packs<float>(call)
           : in.type == DType::float16 ? packs<Half>(call)
                                       : packs<BFloat>(call);
}

}  // namespace

void reduce(const Matrix& in, const DeviceMap& map, const Results& results, const Launch& launch) {
    if (in.rows == 0) return;
    const OnDevice on(launch.device);
    const Call call{rows_params(in, map, results, launch, float64_throughout), launch};
    if (!quick(in, call)) any_rows(in, nullptr, map, results, launch);
}

}  // namespace cuda
}  // namespace fastrealign
